"""How long calls take."""

import time
from collections.abc import Callable


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
