"""How long a call takes."""

import time
from collections.abc import Callable


def seconds_of(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """The first call, compilation included, and the fastest of `repeats` more."""
    times = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times[0], min(times[1:])
