"""The queue: gives jobs to workers, follows them, stops them, replaces workers that end, deletes old videos.

All of it runs in the event loop. A worker's messages arrive by a thread that does nothing else. Servers that share a
database meet there alone: each renews the leases of its jobs every second, notices what others have stopped or deleted,
takes what waits, and settles the jobs of servers that are gone.
"""

import asyncio
import contextlib
import functools
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from lcv_jax.serving.errors import ApiError
from lcv_jax.serving.jobs import Job, JobStore
from lcv_jax.serving.limits import Limits, LiveStreams
from lcv_jax.serving.live import Session
from lcv_jax.serving.metrics import Metrics
from lcv_jax.serving.processes import Live, Worker

EXPIRY_SECONDS = 60.0
STOP_SECONDS = 120.0
"""A worker that has not stopped a job by then, for it compiles or hangs, is replaced."""
RESTART_SECONDS = 2.0
BEAT_SECONDS = 1.0


class Scheduler:
    """Jobs and workers of a server."""

    def __init__(
        self, store: JobStore, workers: Sequence[Worker], limits: Limits, streams: LiveStreams, metrics: Metrics
    ):
        self.store, self.workers, self.limits, self.streams, self.metrics = store, workers, limits, streams, metrics
        self._waiting: list[Session] = []
        self._changed = asyncio.Event()
        self._closing = False
        metrics.capacity.set(limits.max_queue)

    @property
    def unable(self) -> str | None:
        """Why no worker can load the weights, if none can."""
        reasons = [worker.unable for worker in self.workers]
        return reasons[0] if all(reasons) else None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Within, jobs are made."""
        self.store.recover()
        self._loop = asyncio.get_running_loop()
        for worker in self.workers:
            worker.start(self._loop, self._on_message)
        repeated = [asyncio.create_task(self._beat()), asyncio.create_task(self._expire())]
        try:
            yield
        finally:
            self._closing = True
            for task in repeated:
                task.cancel()
            for worker in self.workers:
                worker.end()
            with contextlib.suppress(OSError):  # without the database, another server settles them
                for worker in self.workers:
                    if worker.live:
                        self._fail(worker.live, "interrupted", "the server was stopped while it made this video")
            for session in self._sessions():
                session.end(ApiError(503, "the server was stopped", code="interrupted"))
            self._notify()

    def submitted(self) -> None:
        """Called when a job has joined the queue."""
        self._update()

    def _sessions(self) -> list[Session]:
        return [*self._waiting, *(worker.session for worker in self.workers if worker.session)]

    def join(self, session: Session) -> None:
        """A live stream waits for a worker, behind the streams and jobs that came before it.

        Raises:
            ApiError: too many wait already.
        """
        own = sum(each.owner == session.owner for each in self._sessions())
        for count, most, whose in (
            (len(self._waiting), self.streams.max_live_waiting, "so many wait:"),
            (own, self.limits.max_jobs_per_key, "of this key there are"),
        ):
            if count >= most:
                message = f"live streams: {whose} {count}, at most {most}; try again later"
                raise ApiError(429, message, code="rate_limit_exceeded")
        self._waiting.append(session)
        self._update()

    def leave(self, session: Session, error: ApiError | None = None) -> None:
        """Ends a live stream, whoever it is at; its worker is free at the end of the chunk that it makes."""
        if session in self._waiting:
            self._waiting.remove(session)
            session.end(error)
        elif session.tell and not session.leaving:
            session.leaving = True
            session.end(error)
            session.tell({"type": "stop"})
            if session.deadline:
                session.deadline.cancel()
            session.deadline = self._loop.call_later(STOP_SECONDS, self._replace_if_streaming, session)
        self._update()

    def _replace_if_streaming(self, session: Session) -> None:
        for worker in self.workers:
            if worker.session is session:
                worker.end()

    def live(self, job: Job) -> Live | None:
        """What a worker, here or of another server, has told of a job so far."""
        worker = self._worker_at(job.id)
        return worker.live if worker else Live.elsewhere(job)

    def _worker_at(self, job_id: str) -> Worker | None:
        return next((worker for worker in self.workers if worker.live and worker.live.job.id == job_id), None)

    def stop(self, job: Job, code: str, message: str) -> bool:
        """Ends a job that waits or runs; False where it has ended already.

        Its record says so at once; a worker that makes it goes on until the end of its step.
        """
        if not any(self.store.fail(job.id, origin, code, message) for origin in ("queued", "in_progress")):
            return False
        if worker := self._worker_at(job.id):
            self._stop_worker(worker)
        self.metrics.jobs.labels(job.task["task"], code).inc()
        self._update()
        return True

    def _stop_worker(self, worker: Worker) -> None:
        live = worker.live
        if live and not live.stopping:
            live.stopping = True
            worker.send("stop", live.job.id)
            self._at(live, STOP_SECONDS, lambda: self._replace_if_at(worker, live.job.id))

    def delete(self, job: Job) -> None:
        """Stops a job if need be, and deletes its record and its files."""
        self.stop(job, "cancelled", "the job was deleted")
        self.store.remove(job.id)  # a worker that is still at it removes what it writes after this
        self._update()

    async def changes(self, seconds: float) -> None:
        """Returns when something has changed, or after a time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def _on_message(self, worker: Worker, message: tuple[Any, ...]) -> None:
        if self._closing:
            return
        kind, *content = message
        if kind == "ready":
            worker.ready, worker.facts = True, content[0]
        elif kind == "unable":
            worker.unable = content[0]
        elif kind == "ended":
            self._on_end(worker)
        elif worker.live and worker.live.job.id == content[0]:
            self._on_job(worker, worker.live, kind, content[1:])
        elif worker.session and worker.session.id == content[0]:
            if kind == "live":
                self._on_live(worker.session, *content[1:])
                return  # many a second, and nobody else is told
            self._end_live(worker, content[1] and ApiError(500, content[1][1], code=content[1][0]))
        self._update()

    def _on_job(self, worker: Worker, live: Live, kind: str, content: list[Any]) -> None:
        now, job = time.monotonic(), live.job
        if kind == "step":
            if live.last_step is not None:
                self.metrics.steps.observe(now - live.last_step)
            live.last_step = now
            live.advance(content[0], now)
            return
        if kind == "segment":
            return  # it lies in the job's folder; who watches is told
        if live.deadline:
            live.deadline.cancel()
        worker.live = None
        if kind == "failed":
            self._fail(live, *content)
        elif kind == "done" and self.store.complete(job.id, content[0]):
            self.metrics.jobs.labels(job.task["task"], "completed").inc()
            self.metrics.making.labels(job.task["task"]).observe(time.time() - (job.started or 0))
        else:  # stopped, or done after it was stopped
            self.store.remove_outputs(job.id)

    def _on_live(self, session: Session, header: dict[str, Any], payload: bytes | None) -> None:
        if header["type"] == "frame":
            self.metrics.frames.inc()
        if not session.leaving:
            session.put(header, payload)

    def _end_live(self, worker: Worker, error: ApiError | None) -> None:
        """A worker is done with a live stream."""
        session, worker.session = worker.session, None
        assert session is not None
        if session.deadline:
            session.deadline.cancel()
        session.tell = None
        if not session.leaving:
            session.end(error)

    def _fail(self, live: Live, code: str, message: str) -> None:
        if self.store.fail(live.job.id, "in_progress", code, message):
            self.metrics.jobs.labels(live.job.task["task"], code).inc()
        self.store.remove_outputs(live.job.id)

    def _on_end(self, worker: Worker) -> None:
        """A worker's process is gone: its job has failed, and another process takes its place."""
        worker.end()
        live, worker.live, was_ready, worker.ready = worker.live, None, worker.ready, False
        if live:
            if live.deadline:
                live.deadline.cancel()
            self._fail(live, "worker_ended", "the process that made this video ended, perhaps for lack of memory")
        if worker.session:
            told = "the process that made this stream ended, perhaps for lack of memory"
            self._end_live(worker, ApiError(500, told, code="worker_ended"))
        if was_ready:
            self.metrics.restarts.inc()
            self._loop.call_later(RESTART_SECONDS, self._restart, worker)
            return
        worker.unable = worker.unable or "the worker ended while it loaded the weights; the server's log says more"
        if not self.unable:  # else the server ends with it
            print(f"error: one worker less: {worker.unable}", file=sys.stderr, flush=True)

    def _restart(self, worker: Worker) -> None:
        if not self._closing:
            worker.start(self._loop, self._on_message)

    def _replace_if_at(self, worker: Worker, job_id: str) -> None:
        if worker.live and worker.live.job.id == job_id:
            worker.end()

    def _update(self) -> None:
        """Gives jobs and live streams to idle workers in the order in which they came, and tells whoever watches."""
        for worker in self.workers:
            if not worker.idle:
                continue
            if self._waiting and not self.store.waiting_since(self._waiting[0].arrived):
                self._stream_at(worker, self._waiting.pop(0))
            elif job := self.store.claim():
                worker.live = live = Live(job)
                self.metrics.waiting.observe((job.started or 0) - job.created)
                self._at(live, self.limits.max_job_seconds, functools.partial(self._stop_late, job))
                worker.send("run", job.id, self.store.place(job.id), job.task)
        for number, session in enumerate(self._waiting, 1):
            session.wait_at(number + self.store.waiting_since(session.arrived))
        self.metrics.live.set(sum(worker.session is not None for worker in self.workers))
        self.metrics.queued.set(self.store.count("queued"))
        self.metrics.running.set(sum(worker.live is not None for worker in self.workers))
        self.metrics.workers.set(sum(worker.ready for worker in self.workers))
        self._notify()

    def _stream_at(self, worker: Worker, session: Session) -> None:
        worker.session = session
        session.tell = functools.partial(worker.send, "tell", session.id)
        worker.send("stream", session.id, session.entry)
        limit = f"{self.streams.max_live_seconds:g} s"
        late = ApiError(408, f"the stream has run for this server's longest time, {limit}", code="time_limit")
        session.deadline = self._loop.call_later(self.streams.max_live_seconds, self.leave, session, late)

    def _stop_late(self, job: Job) -> None:
        limit = f"{self.limits.max_job_seconds:g} s"
        self.stop(job, "time_limit", f"the job ran for longer than this server's limit of {limit}: ask for less")

    def _at(self, live: Live, seconds: float, call: Callable[[], None]) -> None:
        if live.deadline:
            live.deadline.cancel()
        live.deadline = self._loop.call_later(seconds, call)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _beat(self) -> None:
        """Again and again: renews leases, stops what is not this server's any more, takes over what servers left."""
        while True:
            with contextlib.suppress(OSError):  # the database is away: leases last longer than a beat
                for worker in self.workers:
                    if worker.live and not self.store.renew(worker.live.job.id, worker.live.told()):
                        self._stop_worker(worker)
                self.store.settle_lost()
                self._update()
            await asyncio.sleep(min(BEAT_SECONDS, self.store.lease_seconds / 4))

    async def _expire(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                self.store.expire(self.limits.keep_hours * 3600, self.limits.keep_gigabytes * 1e9)
                self.metrics.stored.set(self.store.total_bytes())
            await asyncio.sleep(EXPIRY_SECONDS)
