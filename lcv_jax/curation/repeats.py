"""Frames that repeat the one before, told from slow motion, in small grey frames that come one after the other.

Encoders and grain change a still picture from frame to frame, more than a slow motion does. So what counts is
displacement from the first frame of a run, estimated at every place by a step of Lucas and Kanade's method. A run ends
where something has moved too far. Slow motion does not reach that for a while, but it grows with time, and what
encoders do does not: a run whose displacement is a straight line over time is motion. Text that appears over a frozen
picture changes a part of it at once and then stays: runs on both sides of such a change are one.
"""

import dataclasses

import numpy as np

from lcv_jax.array_types import Float, UInt8
from lcv_jax.extras import import_extra

_FARTHEST = 0.22
"""Pixels at half the size of the small frames, exceeded by `_MOVING_SHARE` of the places, up to which nothing moved."""
_MOVING_SHARE = 1 / 200
_SAME_LIGHT = 2.0
"""Levels: the median change up to which nothing has faded."""
_WINDOW, _NOISE = 13, 2.0
"""Pixels of the places whose displacement is estimated; what is added to their squared gradients, for flat ones."""
_LEAST_FREEZE = 0.25
"""Seconds that frames repeat for to count as frozen; films on twos and threes repeat frames all the time."""
_SLOW, _STRAIGHT = 0.1, 0.88
"""Pixels that places move over a run, and the share of their displacement's variance that a straight line explains,
from which on it is slow motion."""
_LEAST_STILL, _MOST_TEXT = 0.15, 0.25
"""Seconds before a text may appear; share of the picture that it may take."""


@dataclasses.dataclass
class Repeats:
    """Takes the small grey frames of a clip one after the other.

    Args:
        fps: rate of the frames.
    """

    fps: float

    def __post_init__(self) -> None:
        self.count, self._lengths = 0, [0]
        self._run: _Run | None = None
        self._goes_on = False

    def add(self, grey_HW: UInt8[np.ndarray, "H W"]) -> None:
        """The next frame."""
        cv2 = import_extra("cv2", "curate", "measuring needs")
        half_HW = cv2.resize(grey_HW, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA).astype(np.float32)
        half_HW = cv2.GaussianBlur(half_HW, (0, 0), 0.8)
        if self._run is None:
            self._run = _Run(half_HW)
        elif not self._run.take(half_HW):
            self._lengths = self._all_lengths()
            self._goes_on = self._run.length >= _LEAST_STILL * self.fps and self._run.ends_with_text
            self._run = _Run(half_HW)
        self.count += 1

    def _all_lengths(self) -> list[int]:
        """Of the runs, with the one that has not ended."""
        if self._run is None:
            return self._lengths
        length = 0 if self._run.is_slow_motion() else self._run.length
        if self._goes_on:
            return [*self._lengths[:-1], self._lengths[-1] + 1 + length]
        return [*self._lengths, length]

    def result(self) -> dict[str, float]:
        """Share of frames that repeat the one before, seconds of the longest run, share in runs that are long."""
        lengths = self._all_lengths()
        least = max(2, round(_LEAST_FREEZE * self.fps))
        frozen = sum(length for length in lengths if length >= least)
        return {
            "repeated_share": sum(lengths) / max(1, self.count - 1),
            "longest_freeze": max(lengths) / self.fps,
            "frozen_share": frozen / max(1, self.count - 1),
        }


class _Run:
    """Frames that are compared with the first of them."""

    def __init__(self, first_HW: Float[np.ndarray, "H W"]) -> None:
        cv2 = import_extra("cv2", "curate", "measuring needs")
        self.length = 0
        """Frames that repeat the first."""
        self.ends_with_text = False
        """Whether the frame that was not taken differs in a part of the picture that changed at once."""
        self._first_HW = first_HW
        self._slope_2HW = [cv2.Sobel(first_HW, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1))]
        x_HW, y_HW = self._slope_2HW
        self._xx_HW, self._xy_HW, self._yy_HW = _mean(x_HW * x_HW) + _NOISE, _mean(x_HW * y_HW), _mean(y_HW**2) + _NOISE
        self._before_HW = np.zeros(first_HW.shape)
        # Over the frames, of which the first has not moved: sums of displacement, of it by time, and of its square.
        self._sum_2HW, self._by_time_2HW = np.zeros((2, *first_HW.shape)), np.zeros((2, *first_HW.shape))
        self._squares_HW = np.zeros(first_HW.shape)

    def take(self, frame_HW: Float[np.ndarray, "H W"]) -> bool:
        """Adds a frame, unless something is elsewhere in it or the light has changed."""
        change_HW = frame_HW - self._first_HW
        if 2 * int(np.count_nonzero(np.abs(change_HW) > _SAME_LIGHT)) > change_HW.size:
            return False
        moved_2HW = self._displacement(change_HW)
        distance_HW = np.hypot(*moved_2HW)
        moved_HW = distance_HW > _FARTHEST
        if moved_HW.mean() > _MOVING_SHARE:
            at_once = self._before_HW[moved_HW].mean() < distance_HW[moved_HW].mean() / 2
            self.ends_with_text = bool(at_once) and moved_HW.mean() < _MOST_TEXT
            return False
        self.length += 1
        self._before_HW = distance_HW
        self._sum_2HW += moved_2HW
        self._by_time_2HW += self.length * moved_2HW
        self._squares_HW += (moved_2HW**2).sum(axis=0)
        return True

    def _displacement(self, change_HW: np.ndarray) -> np.ndarray:
        """Pixels along x and y at every place, up to the sign."""
        xt_HW, yt_HW = (_mean(slope_HW * change_HW) for slope_HW in self._slope_2HW)
        x_HW, y_HW = self._yy_HW * xt_HW - self._xy_HW * yt_HW, self._xx_HW * yt_HW - self._xy_HW * xt_HW
        return np.stack([x_HW, y_HW]) / (self._xx_HW * self._yy_HW - self._xy_HW**2)

    def is_slow_motion(self) -> bool:
        """Whether places move steadily: linear regression of their displacement over time."""
        if not self.length:
            return False
        times, middle = self.length + 1, self.length / 2
        spread = times * self.length * (self.length + 2) / 12
        speed_HW = np.hypot(*(self._by_time_2HW - middle * self._sum_2HW)) / spread
        far_HW = speed_HW * self.length
        far = float(np.quantile(far_HW, 1 - _MOVING_SHARE))
        variance_HW = self._squares_HW - (self._sum_2HW**2).sum(axis=0) / times
        fastest_HW = far_HW >= far
        straight = np.median(speed_HW[fastest_HW] ** 2 * spread / np.maximum(variance_HW[fastest_HW], 1e-9))
        return far > _SLOW and bool(straight > _STRAIGHT)


def _mean(values_HW: np.ndarray) -> np.ndarray:
    cv2 = import_extra("cv2", "curate", "measuring needs")
    return cv2.blur(values_HW, (_WINDOW, _WINDOW))
