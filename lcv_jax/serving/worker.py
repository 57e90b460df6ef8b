"""The process that owns a pipeline and its devices: it makes one job after the other and tells how far each is.

It is asked over a pipe, and ends when the other end of the pipe is gone. Messages to it: ("run", id, folder, task) and
("stop", id); ("stream", id, task) for a live stream, whose client's messages are ("tell", id, message). Messages from
it: ("ready", facts), and of a job ("step", id, progress), ("segment", id, name), and at its end ("done", id, video),
("stopped", id) or ("failed", id, code, message); those of a live stream are in live_stream.py.
"""

import dataclasses
import datetime
import functools
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lcv_jax.checkpoint.store import package_versions
from lcv_jax.command_line import mistake
from lcv_jax.data.frames import contact_sheet, evenly, to_uint8
from lcv_jax.data.media_writer import VideoWriter, write_image
from lcv_jax.generate import SHEET_FRAMES, Files, load, write_result
from lcv_jax.generation import memory
from lcv_jax.generation.long_video import Segments
from lcv_jax.generation.results import Listeners, Result
from lcv_jax.generation.tasks import Task, TextToVideo, inputs_of, is_segmented, result_names
from lcv_jax.own_files import DiskFullError, write_json
from lcv_jax.pipeline import Frames, Pipeline
from lcv_jax.serving.jobs import SIDECAR
from lcv_jax.serving.live_stream import Inbox, LiveStream, StreamStoppedError, warm_up
from lcv_jax.serving.planning import make_task, portable, usual_task
from lcv_jax.serving.settings import Settings

THUMBNAIL, SPRITESHEET, VIDEO = "thumbnail.webp", "spritesheet.jpg", "video.mp4"


MOST_SHAPES = 32
"""Requests of so many shapes keep their compiled programs; clients may ask for any number of them."""
_NO_SHAPE = {"prompt", "negative_prompt", "seed", "guidance_scale", "fps", "num_segments"}


class StoppedError(Exception):
    """A job was told to stop."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job is: in this stage, of several for a refined video."""

    stage: str
    step: int
    steps: int
    segment: int
    segments: int
    stage_number: int
    stages: int

    @property
    def share(self) -> float:
        """Of all steps, in 0..1; stages count alike."""
        within = (self.segment + self.step / self.steps) / self.segments
        return (self.stage_number + within) / self.stages


def work(connection: Connection, settings: Settings) -> None:
    """Runs a worker until its connection ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    stopping: set[str] = set()
    jobs: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    inbox: Inbox = queue.SimpleQueue()
    sending = threading.Lock()

    def send(*message: Any) -> None:
        with sending:
            try:
                connection.send(message)
            except OSError:
                os._exit(1)

    def listen() -> None:
        try:
            while True:
                kind, *content = connection.recv()
                if kind == "stop":
                    stopping.add(content[0])
                elif kind == "tell":
                    inbox.put((content[0], content[1]))
                else:
                    jobs.put((kind, *content))
        except (EOFError, OSError):
            os._exit(1)  # the server is gone

    threading.Thread(target=listen, daemon=True).start()
    try:
        usual = usual_task(settings.defaults, settings.limits)
        pipeline = load(settings.weights, settings.devices, [usual])
        for network in ("text_encoder", "dit", "vae") if pipeline.keep_text_encoder == "device" else ("dit", "vae"):
            pipeline.params(network)
        if settings.live.live_warm:
            assert isinstance(usual, TextToVideo)
            warm_up(pipeline, usual, settings.live)
        send("ready", _facts(pipeline, usual))
    except Exception as error:
        send("unable", mistake(error) or _internal(error))
        return
    shapes: set[str] = set()
    while True:
        kind, job_id, *content = jobs.get()
        entry = content[-1]
        if kind == "stream":
            stream = LiveStream(job_id, entry, settings.live, send, inbox)
            send("live_ended", job_id, _error_of(functools.partial(stream.run, pipeline)))
            del stream  # and its cache
        else:
            folder = content[0]
            send(*_end_of(job_id, lambda: _Making(job_id, folder, entry, send, stopping).run(pipeline)))  # noqa: B023
            stopping.discard(job_id)
        shapes.add(_shape_of(entry))
        if len(shapes) > MOST_SHAPES:
            jax.clear_caches()
            shapes.clear()


def _facts(pipeline: Pipeline, usual: Task) -> dict[str, Any]:
    """What clients can know of a worker: its devices, how it holds the weights, and the GB of a GPU that this takes."""
    names = [field.name for field in dataclasses.fields(memory.Holding)]
    held = {name: getattr(pipeline, name) for name in names}
    works = memory.works_of(usual, pipeline)
    needed = max(memory.needed_bytes(pipeline, work, memory.Holding(**held)) for work in works)
    one = pipeline.mesh is None  # several devices share it in ways that this formula does not know
    return {
        "device": jax.devices()[0].device_kind,
        "num_devices": len(jax.devices()),
        "memory": {**held, "gigabytes": round(needed / 1e9, 3) if one else None},
    }


def _shape_of(entry: dict[str, Any]) -> str:
    """What programs are compiled anew for."""
    return json.dumps({name: value for name, value in entry.items() if name not in _NO_SHAPE}, sort_keys=True)


def _end_of(job_id: str, make: Callable[[], dict[str, Any]]) -> tuple[Any, ...]:
    """The last message about a job."""
    try:
        return "done", job_id, make()
    except StoppedError:
        return "stopped", job_id
    except Exception as error:
        return "failed", job_id, *_code_and_message(error)


def _error_of(stream: Callable[[], None]) -> tuple[str, str] | None:
    """Code and message of what ended a live stream; None where it was told to end."""
    try:
        stream()
    except StreamStoppedError:
        return None
    except Exception as error:
        return _code_and_message(error)
    return None


def _code_and_message(error: Exception) -> tuple[str, str]:
    told = mistake(error)
    if told is None:
        return "server_error", _internal(error)
    out_of_memory = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
    code = "disk_full" if isinstance(error, DiskFullError) else "out_of_memory" if out_of_memory else "invalid_value"
    return code, told


def _internal(error: Exception) -> str:
    traceback.print_exception(error, file=sys.stderr)
    return f"internal error ({type(error).__name__}); the server's log says more"


class _Making:
    """One job on its way: what its listeners tell, and the files that it leaves."""

    def __init__(self, job_id: str, folder: Path, entry: dict[str, Any], send: Callable[..., None], stopping: set[str]):
        self.job_id, self.folder, self._send, self._stopping = job_id, folder, send, stopping
        self.task = make_task(entry, folder)
        self._names = result_names(self.task)
        self._stage, self._segment, self._segments = ("draft" if "draft" in self._names else "video"), 0, 1

    def run(self, pipeline: Pipeline) -> dict[str, Any]:
        """Makes the files, the sidecar last."""
        started, working, video = time.monotonic(), self.folder / "segments", dict[str, Any]()
        listeners = Listeners(on_step=self._on_step, on_segment=self._on_segment)
        try:
            for result in self.task.run(pipeline, working, listeners):
                video = self._write(result)
        finally:
            if is_segmented(self.task):
                Segments(folder=working).remove()  # and its lock, where the job has not ended well
        write_json(self.folder / SIDECAR, _sidecar(self.task, pipeline, video, time.monotonic() - started))
        return video

    def _write(self, result: Result) -> dict[str, Any]:
        files, shown = Files(output=self.folder / VIDEO), list[np.ndarray]()
        pieces = _with_pictures(result, shown)
        if is_segmented(self.task):
            pieces = self._with_segments(pieces, result)
        facts = write_result(dataclasses.replace(result, pieces=pieces), files)
        result.finish()
        self._check()
        if result.name == "":
            write_image(self.folder / THUMBNAIL, shown[len(shown) // 2])
            write_image(self.folder / SPRITESHEET, contact_sheet(np.stack(shown), len(shown)))
        return {**facts, "fps": float(result.fps), "file": files.named(result.name).name}

    def _with_segments(self, pieces: Iterator[Frames], result: Result) -> Iterator[Frames]:
        """The pieces, each written as a video of its own on the way, to be watched before the whole is there."""
        stage = result.name or "refined" if len(self._names) > 1 else "segment"
        for number, piece in enumerate(pieces):
            name = f"{stage}_{number:04}.mp4"
            height, width = piece.shape[1:3]
            with VideoWriter(self.folder / name, fps=result.fps, height=height, width=width) as file:
                file.write(piece)
            self._check()
            self._send("segment", self.job_id, name)
            yield piece

    def _check(self) -> None:
        if self.job_id in self._stopping:
            raise StoppedError

    def _on_segment(self, stage: str, number: int, count: int) -> None:
        self._check()
        self._stage = stage if len(self._names) > 1 else "video"
        self._segment, self._segments = number, count

    def _on_step(self, done: int, total: int) -> None:
        self._check()
        place = self._names.index("") if self._stage in ("refined", "video") else 0
        progress = Progress(
            stage=self._stage, step=done, steps=total, segment=self._segment, segments=self._segments,
            stage_number=place, stages=len(self._names),
        )  # fmt: skip
        self._send("step", self.job_id, progress)


def _with_pictures(result: Result, shown: list[np.ndarray]) -> Iterator[Frames]:
    """The pieces; frames over the whole length are put into `shown`."""
    assert result.num_frames is not None
    places, count = set(evenly(result.num_frames, SHEET_FRAMES).tolist()), 0
    for piece in map(to_uint8, result.pieces):
        shown += [piece[i].copy() for i in range(len(piece)) if count + i in places]
        count += len(piece)
        yield piece


def _sidecar(task: Task, pipeline: Pipeline, video: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Everything that is needed to repeat a video; no path of this machine."""
    return {
        "video": {**video, "fps": str(Fraction(video["fps"]).limit_denominator(100_000))},
        "task": portable(task),
        "inputs": inputs_of(task, pipeline),
        "versions": package_versions(),
        "device": jax.devices()[0].device_kind,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
    }
