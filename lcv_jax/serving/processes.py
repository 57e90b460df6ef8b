"""The processes of workers as a server sees them, and what each is at."""

import asyncio
import contextlib
import dataclasses
import multiprocessing
import threading
from collections.abc import Callable
from typing import Any

from lcv_jax.command_line import environment
from lcv_jax.serving.jobs import Job
from lcv_jax.serving.live import Session
from lcv_jax.serving.settings import Settings
from lcv_jax.serving.worker import Progress, work


@dataclasses.dataclass
class Live:
    """A job that is being made."""

    job: Job
    progress: Progress | None = None
    first: tuple[float, float] | None = None
    """When its first step ended, and its share of all steps then."""
    seconds_left: float | None = None
    last_step: float | None = None
    deadline: asyncio.TimerHandle | None = None
    stopping: bool = False

    def told(self) -> dict[str, Any] | None:
        """What other servers can know of it."""
        if self.progress is None:
            return None
        return {"progress": dataclasses.asdict(self.progress), "seconds_left": self.seconds_left}

    @classmethod
    def elsewhere(cls, job: Job) -> "Live | None":
        """A job that another server makes, as it said last."""
        if job.status != "in_progress" or job.progress is None:
            return None
        return cls(job, Progress(**job.progress["progress"]), seconds_left=job.progress["seconds_left"])

    def advance(self, progress: Progress, now: float) -> None:
        """Notes a step. Time left is counted from the first one on, before which programs are compiled."""
        self.progress = progress
        if self.first is None or progress.share <= self.first[1]:
            self.first = now, progress.share
        elif (done := progress.share - self.first[1]) > 0:
            self.seconds_left = (now - self.first[0]) / done * (1 - progress.share)


class Worker:
    """A worker's process, and what it is at."""

    def __init__(self, settings: Settings, visible: str | None):
        self._settings, self._visible = settings, visible
        self.ready, self.facts = False, dict[str, Any]()
        self.unable: str | None = None
        """Why it cannot load the weights."""
        self.live: Live | None = None
        """The job that it makes."""
        self.session: Session | None = None
        """The live stream that it makes."""

    @property
    def idle(self) -> bool:
        """Whether it can take a job or a stream."""
        return self.ready and self.live is None and self.session is None

    def start(self, loop: asyncio.AbstractEventLoop, tell: Callable[["Worker", tuple[Any, ...]], None]) -> None:
        """Starts the process; `tell` gets its messages, the last of them ("ended",)."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, self._settings), daemon=True)
        visible = {} if self._visible is None else {"CUDA_VISIBLE_DEVICES": self._visible}
        with environment(**visible):
            self._process.start()
        theirs.close()
        self._connection, self.ready, self.unable = ours, False, None

        def listen() -> None:
            with contextlib.suppress(RuntimeError):  # the event loop has ended
                with contextlib.suppress(EOFError, OSError):
                    while True:
                        loop.call_soon_threadsafe(tell, self, ours.recv())
                loop.call_soon_threadsafe(tell, self, ("ended",))

        threading.Thread(target=listen, daemon=True).start()

    def send(self, *message: Any) -> None:
        """Sends a message; one that has ended says so itself."""
        with contextlib.suppress(OSError):
            self._connection.send(message)

    def end(self) -> None:
        """Kills the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()
