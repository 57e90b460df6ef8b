"""Numbers about clips: shares and means with confidence intervals, likeness, seams, drift. No networks."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lcv_jax.array_types import Shaped, UInt8
from lcv_jax.toy.captions import Asked
from lcv_jax.toy.readers import ATTRIBUTES, Reading, follows

Z95 = 1.959963984540054
"""A normal variable lies within so many standard deviations with probability 95 %."""
HIGHEST_PSNR = 99.0
"""Of equal pictures, in decibels."""


def wilson_interval(hits: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's confidence interval of a probability (Wilson 1927): it stays within 0..1, at the ends too.

    Raises:
        ValueError: no trials, or more hits than trials.
    """
    if total < 1 or not 0 <= hits <= total:
        raise ValueError(f"an interval needs trials, and hits among them; got {hits} of {total}")
    share, spread = hits / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    # Rounding must not put the share itself outside.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
    """How many of a number of clips have a property."""

    hits: int
    total: int

    @property
    def percent(self) -> float:
        """The share."""
        return 100 * self.hits / self.total

    def to_json(self) -> dict[str, float]:
        """All with Wilson's 95 % interval, in percent."""
        low, high = wilson_interval(self.hits, self.total)
        return {"percent": self.percent, "low": 100 * low, "high": 100 * high, "hits": self.hits, "total": self.total}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Average:
    """The mean of a number over clips."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the values."""
        return float(np.mean(self.values))

    def to_json(self) -> dict[str, float]:
        """All with the normal 95 % interval; of one clip there is none."""
        count = len(self.values)
        half = Z95 * float(np.std(self.values, ddof=1)) / math.sqrt(count) if count > 1 else math.nan
        interval = {"low": self.mean - half, "high": self.mean + half} if count > 1 else {}
        return {"mean": self.mean, **interval, "count": count}


def average(values: Iterable[float]) -> Average:
    """The mean of some numbers."""
    return Average(values=tuple(map(float, values)))


def caption_shares(readings: Sequence[Reading], asked: Sequence[Asked]) -> dict[str, Share]:
    """Of each attribute, how many clips show what their caption asks for; of all at once: colour, shape and motion."""
    each = [follows(reading, wanted) for reading, wanted in zip(readings, asked, strict=True)]
    shares = {}
    for name in ATTRIBUTES:
        answers = [found[name] for found in each if name in found]
        if answers:
            shares[name] = Share(hits=sum(answers), total=len(answers))
    whole = [all(found.get(name, True) for name in ("colour", "shape", "motion")) for found in each]
    return {**shares, "all": Share(hits=sum(whole), total=len(whole))}


def quality(readings: Sequence[Reading]) -> dict[str, Average]:
    """What needs no caption."""
    names = ("visible", "sharpness", "laplacian", "flicker", "motion_energy", "saturation")
    return {name: average(getattr(reading, name) for reading in readings) for name in names}


def psnr(
    one: Shaped[np.ndarray, "*shape"], other: Shaped[np.ndarray, "*shape"], highest: float = HIGHEST_PSNR
) -> float:
    """Peak signal-to-noise ratio of uint8 pictures or clips, in decibels; of equal ones `highest`."""
    error = np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2)
    return highest if error == 0 else min(highest, float(10 * np.log10(255**2 / error)))


def seam_jump(video_THWC: UInt8[np.ndarray, "T H W 3"], seam: int) -> float:
    """How much changes from frame seam - 1 to frame seam, relative to the median change within the clip; 1 is smooth.

    Raises:
        ValueError: the seam is not within the clip.
    """
    if not 1 <= seam < len(video_THWC):
        raise ValueError(f"the seam must lie in 1..{len(video_THWC) - 1}, got {seam}")
    change_T = np.abs(np.diff(video_THWC.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))
    others = np.delete(change_T, seam - 1)
    # A tenth of a level: a clip in which nothing moves has no seam either.
    return float((change_T[seam - 1] + 0.1) / ((np.median(others) if len(others) else 0.0) + 0.1))


def colour_drift(segments: Sequence[UInt8[np.ndarray, "_ H W 3"]]) -> list[float]:
    """How far each segment's mean colour is from the first's, in percent of it, in the channel where it is farthest."""
    means = [segment.reshape(-1, 3).mean(axis=0) for segment in segments]
    return [float(100 * np.abs(mean / np.maximum(means[0], 1.0) - 1).max()) for mean in means]


def to_json(measured: Mapping[str, Share | Average]) -> dict[str, dict[str, float]]:
    """All by name."""
    return {name: value.to_json() for name, value in measured.items()}
