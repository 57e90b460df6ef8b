"""Engines run a stage over rows: in this process, in a pool of processes, or on a Ray cluster. Same rows on all three.

An engine takes rows as it has room for them and yields outcomes in any order. A row whose worker dies, takes too long
or too much memory is quarantined and nothing else stops. What is not a row's fault (a full disk, a package that is not
installed) ends the run. Stages that wait for a remote server run in threads of this process on every engine.
"""

import collections
import contextlib
import dataclasses
import itertools
import math
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Annotated, Any, Literal

from lcv_jax.bounds import Bounds, check_fields
from lcv_jax.curation.pool import run_pool
from lcv_jax.curation.stage import KEYS, Outcome, Row, Stage, attempt
from lcv_jax.extras import import_extra


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
    """Where stages run."""

    engine: Literal["pool", "process", "ray"] = "pool"
    """A pool of processes on this machine; this process alone, to debug; or a Ray cluster."""
    workers: Annotated[int, Bounds(least=0, most=4096)] = 0
    """Processes of the pool. 0: one for each core."""
    worker_memory: Annotated[int, Bounds(least=64, most=2**20)] = 600
    """Megabytes that a worker of the pool may take, besides what a stage's own network takes (segment: 400); the row of
    one that takes more is quarantined."""
    rows_per_worker: Annotated[int, Bounds(least=1, most=2**31 - 1)] = 200
    """A worker of the pool is replaced by a new one after so many rows."""
    ray_address: str = ""
    """Of a Ray cluster, or `auto` on one of its machines. Empty: Ray is started on this machine."""

    def __post_init__(self) -> None:
        check_fields(self)

    def run(self, stage: Stage, rows: Iterable[Row]) -> Iterator[tuple[Row, Outcome]]:
        """Runs a stage over rows; yields each row with its outcome.

        Raises:
            DiskFullError: a disk takes no more.
            ImportError: a package is not installed.
            ValueError: no cluster can be reached.
        """
        if stage.cost.calls:
            return _in_threads(stage, rows)
        if self.engine == "process":
            return ((row, attempt(stage, row)) for row in rows)
        if self.engine == "ray":
            return _on_ray(stage, rows, self.ray_address)
        cores = self.workers or len(os.sched_getaffinity(0))
        workers = 1 if stage.cost.gpus else max(1, int(cores / stage.cost.cores))
        return run_pool(
            stage,
            rows,
            workers=workers,
            megabytes=self.worker_memory + stage.cost.memory,
            rows_per_worker=self.rows_per_worker,
        )


def _in_threads(stage: Stage, rows: Iterable[Row]) -> Iterator[tuple[Row, Outcome]]:
    rows = iter(rows)
    with ThreadPoolExecutor(stage.cost.calls) as pool:
        running = {pool.submit(attempt, stage, row): row for row in itertools.islice(rows, stage.cost.calls)}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                row = running.pop(future)
                yield row, future.result()
                running |= {pool.submit(attempt, stage, row): row for row in itertools.islice(rows, 1)}


def _on_ray(stage: Stage, rows: Iterable[Row], address: str) -> Iterator[tuple[Row, Outcome]]:
    ray = import_extra("ray", "ray", "the engine ray needs")
    with _cluster(ray, address):
        options = {"num_cpus": stage.cost.cores, "num_gpus": stage.cost.gpus, "max_retries": 0}
        task = ray.remote(**options)(_attempt_packed)
        shared, rows = ray.put(stage), iter(rows)
        running: dict[Any, Row] = {}
        room = max(1, int(ray.cluster_resources().get("CPU", 1) / max(stage.cost.cores, 0.01)))
        deadlines: dict[Any, float] = collections.defaultdict(lambda: math.inf)
        while True:
            for row in itertools.islice(rows, room - len(running)):
                reference = task.remote(shared, row)
                running[reference] = row
                deadlines[reference] = time.monotonic() + stage.cost.timeout
            if not running:
                return
            done, _ = ray.wait(
                list(running), timeout=max(0.0, min(deadlines[each] for each in running) - time.monotonic())
            )
            late = [each for each in running if each not in done and deadlines[each] <= time.monotonic()]
            for reference in late:
                ray.cancel(reference, force=True)
            for reference in (*done, *late):
                row = running.pop(reference)
                yield row, _fetched(ray, stage, row, None if reference in late else reference)


def _fetched(ray: Any, stage: Stage, row: Row, reference: Any | None) -> Outcome:
    """The outcome of a task; None: of one that took too long."""
    key = row[KEYS[stage.of][0]]
    if reference is None:
        return Outcome(key=key, fault=f"took longer than {stage.cost.timeout:g} s", seconds=stage.cost.timeout)
    try:
        found: Outcome = ray.get(reference)
        return found
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        return Outcome(key=key, fault=f"its worker died ({type(error).__name__})")


@contextlib.contextmanager
def _cluster(ray: Any, address: str) -> Iterator[None]:
    begun = not ray.is_initialized()
    if begun:
        quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        local: dict[str, Any] = {} if address else {"include_dashboard": False}
        try:
            ray.init(address=address or "local", **quiet, **local)
        except ConnectionError as error:
            told = " ".join(str(error).split())
            raise ValueError(f"--ray-address {address}: no Ray cluster can be reached ({told})") from error
    try:
        yield
    finally:
        if begun:
            ray.shutdown()


def _attempt_packed(stage: Stage, row: Row) -> Outcome:
    return attempt(stage, row)
