"""The frame times of a clip: its length, its frame rate, and which frame is shown at a given time.

Times come from every frame of the picture's own stream. Durations and rates that a container states are not used.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

_CLOCK_SLACK = Fraction(1, 10)
"""Part of a frame interval: a length that is rounded to the container's clock must not add a frame."""
_GAP_SECONDS, _GAP_INTERVALS = 2, 10
"""A gap between two frames is longer than both."""
_DEFAULT_RATE = Fraction(25)
"""Of a clip with a single frame that has no duration."""


@dataclasses.dataclass(frozen=True, eq=False)
class Timeline:
    """When each frame of a clip is shown."""

    ticks: np.ndarray
    """Rising times in units of `time_base`, one per frame."""
    time_base: Fraction
    """Seconds per tick."""
    rate: Fraction
    """Frames per second; the most common one (median interval) where it varies."""
    is_constant: bool
    """Whether the frames are evenly spaced, up to the rounding of the clock."""
    seconds: Fraction
    """From the start of the first frame to the end of the last."""
    keyframes: np.ndarray
    """Rising ticks of the frames that decoding can start from."""

    def __len__(self) -> int:
        return len(self.ticks)

    def start(self, index: int) -> Fraction:
        """When a frame is shown, in seconds since the first frame."""
        return (int(self.ticks[index]) - int(self.ticks[0])) * self.time_base

    def nearest(self, moment: Fraction) -> int:
        """The frame that starts nearest to a time in seconds since the first frame; of two, the earlier one."""
        tick = moment / self.time_base + int(self.ticks[0])
        after = int(np.searchsorted(self.ticks, math.floor(tick), side="right"))
        if after == 0:
            return 0
        if after == len(self):
            return after - 1
        return after - 1 if 2 * tick <= int(self.ticks[after - 1]) + int(self.ticks[after]) else after

    def at_rate(self, fps: Fraction | None, since: Fraction = Fraction(0)) -> Iterator[int]:
        """The frames nearest to `since` + k / fps, up to the end of the clip. None: the clip's own rate."""
        if fps is None and self.is_constant and since == 0:
            yield from range(len(self))
            return
        fps = fps or self.rate
        count = math.ceil((self.seconds - since) * fps - _CLOCK_SLACK)
        for number in range(max(count, 1 if since == 0 else 0)):
            yield self.nearest(since + number / fps)

    def gaps(self) -> list[int]:
        """Frames before which the time jumps: what was shown meanwhile is missing."""
        longest = math.floor(max(Fraction(_GAP_SECONDS), _GAP_INTERVALS / self.rate) / self.time_base)
        return (np.flatnonzero(np.diff(self.ticks) > longest) + 1).tolist()

    def last(self, number: int, fps: Fraction | None) -> list[int]:
        """The last frames at a rate, counted back from the start of the last frame."""
        if fps is None and self.is_constant:
            return list(range(max(len(self) - number, 0), len(self)))
        fps = fps or self.rate
        end = self.start(len(self) - 1)
        moments = [end - back / fps for back in reversed(range(number))]
        return [self.nearest(moment) for moment in moments if moment >= -_CLOCK_SLACK / fps]


def make_timeline(
    ticks: Sequence[int] | np.ndarray,
    time_base: Fraction,
    *,
    last_duration: int = 0,
    stated_rates: Sequence[Fraction] = (),
    keyframes: Sequence[int] | np.ndarray = (),
) -> Timeline:
    """A timeline of frame times in any order.

    Args:
        ticks: one per frame, in units of `time_base`.
        time_base: seconds per tick.
        last_duration: ticks that the last frame is shown for; 0: unknown.
        stated_rates: rates that the file states; one that agrees with the times is taken as exact.
        keyframes: ticks of the frames that decoding can start from.

    Raises:
        ValueError: there is no frame, or two frames have the same time.
    """
    if not len(ticks):
        raise ValueError("holds no frame")
    rising = np.sort(np.asarray(ticks, np.int64))
    repeated = np.flatnonzero(np.diff(rising) == 0)
    if len(repeated):
        moment = float((int(rising[repeated[0]]) - int(rising[0])) * time_base)
        raise ValueError(
            f"{len(repeated)} of its {len(rising)} frames have the time of another (the first at {moment:.3f} s), so "
            "that their order and speed are unknown; re-encode it at a constant frame rate (ffmpeg -r RATE -i ...)"
        )
    rate, is_constant = _rate(rising, time_base, [rate for rate in stated_rates if rate and rate > 0])
    if len(rising) == 1 and last_duration > 0 and not is_constant:
        rate, is_constant = 1 / (last_duration * time_base), True
    duration = last_duration * time_base if last_duration > 0 else 1 / rate
    if is_constant:  # some writers give the last frame a duration of next to nothing
        duration = max(duration, 1 / rate)
    return Timeline(
        ticks=rising,
        time_base=time_base,
        rate=rate,
        is_constant=is_constant,
        seconds=(int(rising[-1]) - int(rising[0])) * time_base + duration,
        keyframes=np.sort(np.asarray(keyframes, np.int64)),
    )


def _rate(ticks: np.ndarray, time_base: Fraction, stated: list[Fraction]) -> tuple[Fraction, bool]:
    """The frame rate, and whether it is constant."""
    if len(ticks) == 1:
        return (stated[0], True) if stated else (_DEFAULT_RATE, False)
    since_first = (ticks - ticks[0]).astype(np.float64)
    fitted = (len(ticks) - 1) / (int(ticks[-1] - ticks[0]) * time_base)
    for rate in (*stated, fitted):
        period = float(1 / (rate * time_base))
        if np.abs(since_first - period * np.arange(len(ticks))).max() <= min(1.0, period / 4):
            return rate, True
    middle = (len(ticks) - 2) // 2
    median = int(np.partition(np.diff(ticks), middle)[middle])
    for rate in stated:
        if abs(1 / (rate * time_base) - median) <= 1:
            return rate, False
    return 1 / (median * time_base), False
