"""The process that owns a pipeline and its devices: it makes one job after the other and tells how far each is.

It is asked over a pipe, and ends when the other end of the pipe is gone. Messages to it: ("run", id, folder, task) and
("stop", id). Messages from it: ("ready", facts), and of a job ("step", id, progress), ("segment", id, name), and at its
end ("done", id, video), ("stopped", id) or ("failed", id, code, message).
"""

import dataclasses
import datetime
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
from lcv_jax.generate import SHEET_FRAMES, Devices, Files, Weights, load, write_result
from lcv_jax.generation.results import Listeners, Result
from lcv_jax.generation.tasks import Task, inputs_of, is_segmented, result_names
from lcv_jax.own_files import DiskFullError, write_json
from lcv_jax.pipeline import Frames, Pipeline
from lcv_jax.serving.jobs import SIDECAR
from lcv_jax.serving.planning import make_task, portable

THUMBNAIL, SPRITESHEET, VIDEO = "thumbnail.webp", "spritesheet.jpg", "video.mp4"


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


def work(connection: Connection, weights: Weights, devices: Devices) -> None:
    """Runs a worker until its connection ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    stopping: set[str] = set()
    jobs: queue.SimpleQueue[tuple[str, Path, dict[str, Any]]] = queue.SimpleQueue()
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
                else:
                    jobs.put((content[0], content[1], content[2]))
        except (EOFError, OSError):
            os._exit(1)  # the server is gone

    threading.Thread(target=listen, daemon=True).start()
    try:
        pipeline = load(weights, devices)
        for network in ("text_encoder", "dit", "vae") if weights.keep_text_encoder == "device" else ("dit", "vae"):
            pipeline.params(network)
        send("ready", {"device": jax.devices()[0].device_kind, "num_devices": len(jax.devices())})
    except Exception as error:
        send("unable", mistake(error) or _internal(error))
        return
    while True:
        job_id, folder, entry = jobs.get()
        send(*_end_of(job_id, lambda: _make(job_id, folder, entry, pipeline, send, stopping)))  # noqa: B023
        stopping.discard(job_id)


def _end_of(job_id: str, make: Callable[[], dict[str, Any]]) -> tuple[Any, ...]:
    """The last message about a job."""
    try:
        return "done", job_id, make()
    except StoppedError:
        return "stopped", job_id
    except Exception as error:
        told = mistake(error)
        if told is None:
            return "failed", job_id, "server_error", _internal(error)
        out_of_memory = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
        code = (
            "disk_full" if isinstance(error, DiskFullError) else "out_of_memory" if out_of_memory else "invalid_value"
        )
        return "failed", job_id, code, told


def _internal(error: Exception) -> str:
    traceback.print_exception(error, file=sys.stderr)
    return f"internal error ({type(error).__name__}); the server's log says more"


def _make(
    job_id: str,
    folder: Path,
    entry: dict[str, Any],
    pipeline: Pipeline,
    send: Callable[..., None],
    stopping: set[str],
) -> dict[str, Any]:
    """Makes the files of a job, the sidecar last."""
    started, task = time.monotonic(), make_task(entry, folder)
    names = result_names(task)
    place = {"stage": "draft" if "draft" in names else "video", "number": 0, "count": 1}

    def check() -> None:
        if job_id in stopping:
            raise StoppedError

    def on_segment(stage: str, number: int, count: int) -> None:
        check()
        place.update(stage=stage if len(names) > 1 else "video", number=number, count=count)

    def on_step(done: int, total: int) -> None:
        check()
        stage = names.index("") if place["stage"] in ("refined", "video") else 0
        progress = Progress(
            stage=str(place["stage"]), step=done, steps=total, segment=int(place["number"]),
            segments=int(place["count"]), stage_number=stage, stages=len(names),
        )  # fmt: skip
        send("step", job_id, progress)

    listeners, files = Listeners(on_step=on_step, on_segment=on_segment), Files(output=folder / VIDEO)
    video: dict[str, Any] = {}
    for result in task.run(pipeline, folder / "segments", listeners):
        shown: list[np.ndarray] = []
        stage = result.name or "refined" if len(names) > 1 else "segment"

        def tell(name: str) -> None:
            check()
            send("segment", job_id, name)

        pieces = _with_pictures(result, shown)
        if is_segmented(task):
            pieces = _with_segments(pieces, result, folder, stage, tell)
        facts = write_result(dataclasses.replace(result, pieces=pieces), files)
        video = {**facts, "fps": float(result.fps), "file": files.named(result.name).name}
        result.finish()
        check()
        if result.name == "":
            write_image(folder / THUMBNAIL, shown[len(shown) // 2])
            write_image(folder / SPRITESHEET, contact_sheet(np.stack(shown), len(shown)))
    write_json(folder / SIDECAR, _sidecar(task, pipeline, video, time.monotonic() - started, folder))
    return video


def _with_pictures(result: Result, shown: list[np.ndarray]) -> Iterator[Frames]:
    """The pieces; frames over the whole length are put into `shown`."""
    assert result.num_frames is not None
    places, count = set(evenly(result.num_frames, SHEET_FRAMES).tolist()), 0
    for piece in map(to_uint8, result.pieces):
        shown += [piece[i].copy() for i in range(len(piece)) if count + i in places]
        count += len(piece)
        yield piece


def _with_segments(
    pieces: Iterator[Frames], result: Result, folder: Path, stage: str, tell: Callable[[str], None]
) -> Iterator[Frames]:
    """The pieces, each written as a video of its own on the way, to be watched before the whole is there."""
    for number, piece in enumerate(pieces):
        name = f"{stage}_{number:04}.mp4"
        height, width = piece.shape[1:3]
        with VideoWriter(folder / name, fps=result.fps, height=height, width=width) as file:
            file.write(piece)
        tell(name)
        yield piece


def _sidecar(task: Task, pipeline: Pipeline, video: dict[str, Any], seconds: float, folder: Path) -> dict[str, Any]:
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
