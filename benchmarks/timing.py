"""How long calls take."""

import dataclasses
import statistics
import time
from collections.abc import Callable

import jax


def seconds_of(*runs: Callable[[], object], repeats: int) -> list[tuple[float, float]]:
    """Of each call the first time, compilation included, and the fastest of `repeats` more.

    Calls take turns, so that whatever else a machine does meets them alike.
    """
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(1 + repeats):
        for run, taken in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    return [(taken[0], min(taken[1:])) for taken in times]


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of a call until its results are on the device."""

    median: float
    fastest: float
    repeats: int


LEAST_SECONDS = 0.02
"""An accelerator is given calls in rows that take this long, so that starting them does not count."""


def times_of(run: Callable[[], object], *, seconds: float, most_repeats: int = 30) -> Times:
    """Times a call for about so many seconds, after one that warms up; `run` need not wait for its results.

    A call that takes longer than that is timed once.
    """

    def timed(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            result = run()
        jax.block_until_ready(result)
        return (time.perf_counter() - start) / calls

    timed(1)
    once = timed(1)
    if once >= seconds:
        return Times(once, once, 1)
    calls = 1 if jax.default_backend() == "cpu" else max(1, min(100, round(LEAST_SECONDS / once)))
    repeats = max(2, min(most_repeats, round(seconds / (calls * once))))
    taken = [timed(calls) for _ in range(repeats)]
    return Times(statistics.median(taken), min(taken), repeats)
