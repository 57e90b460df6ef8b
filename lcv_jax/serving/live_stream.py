"""A live stream in a worker: frames as long as the client takes them, new prompts, moments to go back to, an mp4.

Messages to it, of its client: {"type": "ack", "frame": number}, "prompt", "back", "save"; and {"type": "stop"}.
Messages from it: ("live", id, header, payload), and at its end ("live_ended", id, (code, message) or None).
"""

import dataclasses
import io
import queue
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lcv_jax.data.frames import media_package
from lcv_jax.data.media_writer import VideoWriter
from lcv_jax.generation.tasks import TextToVideo
from lcv_jax.pipeline import Pipeline
from lcv_jax.sampling.stream import Moment, Stream
from lcv_jax.serving.limits import LiveStreams
from lcv_jax.serving.planning import make_task

Inbox = queue.SimpleQueue[tuple[str, dict[str, Any]]]
"""Of a worker: (id of a stream, message)."""
JPEG = {"format": "JPEG", "quality": 92, "subsampling": 0}


class StreamStoppedError(Exception):
    """A live stream was told to stop."""


class KeptFrames:
    """The last frames as JPEG, within a bound of bytes."""

    def __init__(self, most_bytes: int):
        self.first = 0
        """Number of the oldest frame that is kept."""
        self._most, self._bytes = most_bytes, 0
        self._frames: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, picture: bytes) -> None:
        """Keeps the next frame, and forgets the oldest where there is no room."""
        self._frames.append(picture)
        self._bytes += len(picture)
        while self._bytes > self._most and len(self._frames) > 1:
            self._bytes -= len(self._frames.popleft())
            self.first += 1

    def cut(self, number: int) -> None:
        """Forgets the frames from a number on."""
        while self._frames and self.first + len(self._frames) > number:
            self._bytes -= len(self._frames.pop())
        self.first = min(self.first, number)

    def video(self, fps: float) -> bytes:
        """An mp4 of all of them."""
        image: Any = media_package("PIL.Image")
        rate = Fraction(fps).limit_denominator(100_000)
        with tempfile.TemporaryDirectory() as folder:
            path, file = Path(folder) / "stream.mp4", None
            for picture in self._frames:
                frame = np.asarray(image.open(io.BytesIO(picture)))
                if file is None:
                    file = VideoWriter(path, fps=rate, height=frame.shape[0], width=frame.shape[1]).__enter__()
                file.write(frame[None])
            assert file is not None
            file.__exit__(None, None, None)
            return path.read_bytes()


class Moments:
    """Moments of a stream between chunks, within a bound of bytes.

    Where there is no room for one more, every second one is forgotten, and from then on half as many are kept.
    """

    def __init__(self, most_bytes: int):
        self._most = most_bytes
        self._kept: list[tuple[int, Moment]] = []
        self._every, self._chunks = 1, 0

    def note(self, stream: Stream, number: int) -> None:
        """Called between two chunks, with the number of the frame that comes next."""
        size = stream.state_bytes
        if number and self._chunks % self._every == 0 and 2 * size <= self._most:
            if (len(self._kept) + 1) * size > self._most:
                self._kept, self._every = self._kept[::2], 2 * self._every
            self._kept.append((number, stream.moment()))
        self._chunks += 1

    def before(self, number: int) -> tuple[int, Moment | None]:
        """The last moment that is not after a frame, None for the beginning; those after it are forgotten."""
        self._kept = [each for each in self._kept if each[0] <= number]
        return self._kept[-1] if self._kept else (0, None)


class LiveStream:
    """One stream, as long as its client stays."""

    def __init__(
        self, stream_id: str, entry: Mapping[str, Any], live: LiveStreams, send: Callable[..., None], inbox: Inbox
    ):
        self._id, self._live, self._send, self._inbox = stream_id, live, send, inbox
        task = make_task(entry, Path())
        assert isinstance(task, TextToVideo)
        self._task = task
        self._moments = Moments(live.max_live_state_megabytes << 20)
        self._number = self._acked = 0
        self._kept = KeptFrames(live.max_live_kept_megabytes << 20)

    def run(self, pipeline: Pipeline) -> None:
        """Makes frames until it is told to stop.

        Raises:
            StreamStoppedError: it was.
            ValueError: options that a stream cannot serve.
        """
        self._pipeline = pipeline
        self._stream, told = open_stream(pipeline, self._task, self._live)
        self._say(
            "begun", width=self._task.width, height=self._task.height, fps=float(self._task.fps),
            seed=self._task.options.seed, ahead=self._live.live_ahead,
            warnings=told,
        )  # fmt: skip
        while True:
            self._obey()
            if not self._stream.num_ready:
                self._moments.note(self._stream, self._number)
            picture = _as_jpeg(next(self._stream))
            self._kept.add(picture)
            self._say("frame", picture, frame=self._number, format="image/jpeg")
            self._number += 1

    def _obey(self) -> None:
        """Follows what the client has said, and waits while it has not shown what was sent."""
        while True:
            try:
                stream_id, message = self._inbox.get(block=self._number - self._acked >= self._live.live_ahead)
            except queue.Empty:
                return
            if stream_id == self._id:
                self._follow(message)

    def _follow(self, message: Mapping[str, Any]) -> None:
        kind = message["type"]
        if kind == "stop":
            raise StreamStoppedError
        if kind == "ack":
            self._acked = max(self._acked, min(message["frame"] + 1, self._number))
        elif kind == "prompt":
            self._stream.prompt = message["prompt"]
            self._say("prompt", prompt=message["prompt"], frame=self._number + self._stream.num_ready)
        elif kind == "back":
            self._go_back(message["frame"])
        elif len(self._kept):
            video = self._kept.video(float(self._task.fps))
            self._say("video", video, first=self._kept.first, frames=len(self._kept), format="video/mp4")

    def _go_back(self, frame: int) -> None:
        """Goes on from the last moment kept that is not after a frame."""
        self._number, moment = self._moments.before(frame)
        self._acked = self._number
        self._kept.cut(self._number)
        if moment is None:
            del self._stream  # and its cache
            self._stream, _ = open_stream(self._pipeline, self._task, self._live)  # the same seed, the same frames
        else:
            self._stream.go_back(moment)
        self._say("back", frame=self._number, prompt=self._stream.prompt)

    def _say(self, kind: str, payload: bytes | None = None, **facts: Any) -> None:
        self._send("live", self._id, {"type": kind, **facts}, payload)


def open_stream(pipeline: Pipeline, task: TextToVideo, live: LiveStreams) -> tuple[Stream, list[str]]:
    """The stream of a request, and what there is to warn of."""
    options = {field.name: getattr(task.options, field.name) for field in dataclasses.fields(task.options)}
    (prompt,) = task.prompt
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        stream = pipeline.stream(prompt, height=task.height, width=task.width, window=live.window, **options)
    return stream, [str(each.message) for each in caught if each.category is UserWarning]


def warm_up(pipeline: Pipeline, task: TextToVideo, live: LiveStreams) -> None:
    """Compiles what a stream of this size needs: its first chunk, the next, and one after going back."""
    stream, _ = open_stream(pipeline, task, live)
    for _ in range(2):
        next(stream)
        while stream.num_ready:
            next(stream)
    stream.go_back(stream.moment())
    _as_jpeg(next(stream))


def _as_jpeg(frame: np.ndarray) -> bytes:
    file = io.BytesIO()
    media_package("PIL.Image").fromarray(frame).save(file, **JPEG)
    return file.getvalue()
