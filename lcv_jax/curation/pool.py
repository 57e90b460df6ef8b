"""A pool of worker processes for one stage: each has one row at a time, and is replaced when it dies or has done many.

Why not concurrent.futures: there, one worker that is killed breaks the whole pool, and a row has no time limit.
"""

import contextlib
import itertools
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from lcv_jax.command_line import environment
from lcv_jax.curation.stage import KEYS, Outcome, Row, Stage, attempt

_LOOK = 0.5
"""Seconds between two looks at the memory of workers."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that keep a worker to one core: there are as many workers as cores."""


def run_pool(
    stage: Stage, rows: Iterable[Row], *, workers: int, megabytes: int, rows_per_worker: int
) -> Iterator[tuple[Row, Outcome]]:
    """Runs a stage over rows in processes; yields each row with its outcome.

    Args:
        stage: its function must be importable in another process.
        rows: taken one by one, as workers become free.
        workers: processes.
        megabytes: that each may take.
        rows_per_worker: after which one is replaced, as decoders leak.
    """
    rows = iter(rows)
    pool: list[_Worker] = []
    try:
        while True:
            for row in itertools.islice(rows, workers - len(pool)):
                pool.append(_Worker(stage))
                pool[-1].give(row)
            if not pool:
                return
            wait([handle for worker in pool for handle in worker.handles], timeout=_patience(pool))
            for worker in list(pool):
                outcome = worker.outcome(megabytes)
                if outcome is None:
                    continue
                finished = worker.row
                assert finished is not None
                worker.row = None
                following: Row | None = None
                if worker.is_alive and worker.done < rows_per_worker and worker.megabytes() < 0.75 * megabytes:
                    following = next(rows, None)
                if following is None:
                    worker.end()
                    pool.remove(worker)
                else:
                    worker.give(following)
                yield finished, outcome
    finally:
        for worker in pool:
            worker.kill()


class _Worker:
    """A process and the row that it has."""

    def __init__(self, stage: Stage):
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._stage, self.done, self.is_alive = stage, 0, True
        self.row: Row | None = None
        self._process = context.Process(target=_serve, args=(other, stage), daemon=True)
        with environment(**dict.fromkeys(_THREADS, "1")):
            self._process.start()
        other.close()
        self.handles: tuple[Any, ...] = (self._connection, self._process.sentinel)

    def give(self, row: Row) -> None:
        self.row, self._begun = row, time.monotonic()
        with contextlib.suppress(OSError):  # it died: the next look finds out
            self._connection.send(row)

    @property
    def deadline(self) -> float:
        return self._begun + self._stage.cost.timeout

    def outcome(self, megabytes: int) -> Outcome | None:
        """What became of its row; None: nothing yet."""
        try:
            if self._connection.poll():
                found = self._connection.recv()
                self.done += 1
                if isinstance(found, Exception):
                    raise found
                return found  # type: ignore[no-any-return]
        except (EOFError, ConnectionError):
            self._process.join(5)
        if not self._process.is_alive():
            return self._fault(f"its worker {_ended(self._process.exitcode)}")
        if time.monotonic() > self.deadline:
            return self._fault(f"took longer than {self._stage.cost.timeout:g} s")
        if (taken := self.megabytes()) > megabytes:
            return self._fault(f"took {taken:.0f} MB of memory, and a worker may take {megabytes} (--worker-memory)")
        return None

    def megabytes(self) -> float:
        """Resident memory; 0 where the system does not tell."""
        try:
            pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        except OSError:
            return 0.0
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join(5)
        self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _fault(self, reason: str) -> Outcome:
        self.kill()
        self.is_alive = False
        assert self.row is not None
        key, seconds = self.row[KEYS[self._stage.of][0]], time.monotonic() - self._begun
        return Outcome(key=key, fault=reason, seconds=seconds)


def _serve(connection: Connection, stage: Stage) -> None:
    """A worker: outcomes of rows, until None comes or its parent has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    with contextlib.suppress(EOFError, ConnectionError):
        while (row := connection.recv()) is not None:
            try:
                connection.send(attempt(stage, row))
            except (OSError, ImportError) as error:
                connection.send(error)


def _patience(busy: Iterable[_Worker]) -> float:
    return max(0.0, min(_LOOK, min((worker.deadline for worker in busy), default=math.inf) - time.monotonic()))


def _ended(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"was killed by signal {-exitcode} ({signal.Signals(-exitcode).name})"
    return f"ended with status {exitcode}"
