"""The task `stream`: endless video into a file, up to a length or until it is interrupted."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated

import jax
import numpy as np
from tyro.conf import Fixed

from lcv_jax.bounds import Bounds, Count, Fps, Pixels, Whole, check_fields
from lcv_jax.command_line import handling
from lcv_jax.generation.results import FPS, Listeners, Result
from lcv_jax.pipeline import Pipeline
from lcv_jax.sampling.options import SamplingOptions, check_size, check_stream
from lcv_jax.sampling.streaming import StreamWindow
from lcv_jax.user_files import check_writable

Seconds = Annotated[float, Bounds(above=0, most=10**6)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamVideo:
    """Make video without an end, in causal chunks, that may be told what happens next.

    Ctrl-C ends it, and the file is whole. Memory and time a chunk stay the same however long it runs.
    """

    prompt: tuple[str, ...]
    """What to show; further prompts follow at the times of --prompt-at."""
    prompt_at: tuple[Seconds, ...] = ()
    """Seconds of the video at which each further prompt begins, rising. It shows from the next chunk on."""
    seconds: Seconds | None = None
    """Length of the video. None: until Ctrl-C."""
    height: Pixels = 480
    """Pixels, a multiple of 16."""
    width: Pixels = 832
    """Pixels, a multiple of 16."""
    fps: Fps = FPS
    """Frames a second; the model was trained at 15."""
    chunk: Annotated[int, Bounds(least=1, most=4)] = 3
    """Latent frames, four frames of video each, that are denoised together."""
    sink: Whole = 3
    """First latent frames of the stream, which every chunk sees."""
    ring: Count = 18
    """Last latent frames that a chunk sees."""
    resume: Path | None = None
    """Continue a stream that --save wrote, with the frames after it. None: begin a new one."""
    save: Path | None = None
    """Where the stream is saved when it ends, to be continued. None: it is not."""
    options: Fixed[SamplingOptions] = SamplingOptions()

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def window(self) -> StreamWindow:
        """What a chunk sees."""
        return StreamWindow(chunk=self.chunk, sink=self.sink, ring=self.ring)

    @property
    def num_frames(self) -> int | None:
        """Of the whole video; None: until it is interrupted."""
        return None if self.seconds is None else max(1, round(self.seconds * self.fps))

    def check(self) -> None:
        """Raises ValueError for what can be seen to be wrong without a model."""
        if not self.prompt:
            raise ValueError("give at least one prompt; it may be empty")
        if len(self.prompt_at) != len(self.prompt) - 1:
            raise ValueError(
                f"prompt_at gives the time of each prompt after the first: {len(self.prompt) - 1} for "
                f"{len(self.prompt)} prompts, got {len(self.prompt_at)}"
            )
        late = [time for time in self.prompt_at if self.seconds is not None and time >= self.seconds]
        if late or list(self.prompt_at) != sorted(set(self.prompt_at)):
            within = "" if self.seconds is None else f", all before the end at {self.seconds:g} s"
            raise ValueError(f"prompt_at must rise{within}; got {', '.join(f'{time:g}' for time in self.prompt_at)}")
        self.options.seeds(1)
        check_stream(self.options)
        check_size(self.height, self.width, 64 if self.options.sparse else 16)
        _ = self.window
        if self.seconds is None and jax.process_count() > 1:
            raise ValueError("several processes cannot be interrupted together: give seconds")
        if self.save is not None:
            check_writable(self.save)

    def run(self, pipeline: Pipeline, folder: Path, listeners: Listeners) -> Iterator[Result]:
        """The one video."""
        yield Result(pieces=self._frames(pipeline, listeners), num_frames=self.num_frames, fps=self.fps)

    def _frames(self, pipeline: Pipeline, listeners: Listeners) -> Iterator[np.ndarray]:
        options = {field.name: getattr(self.options, field.name) for field in dataclasses.fields(self.options)}
        stream = pipeline.stream(
            self.prompt[0], height=self.height, width=self.width, window=self.window, resume=self.resume, **options
        )
        begins = [round(time * self.fps) for time in (0, *self.prompt_at)]
        told, total = dict(zip(begins, self.prompt, strict=True)), self.num_frames
        with _interrupted_once() as stopped:
            count = 0
            while count != total and not (count and stopped.is_set()):
                yield stream.send(told.get(count))[None]
                count += 1
                if listeners.on_step is not None:
                    listeners.on_step(count, total or count)
        if self.save is not None:
            stream.save(self.save)


@contextlib.contextmanager
def _interrupted_once() -> Iterator[threading.Event]:
    """Within, the first Ctrl-C, or a first SIGTERM, sets the event; a second one interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # signals are handled in the main thread alone
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    with handling(ask, signal.SIGINT, signal.SIGTERM):
        yield asked
