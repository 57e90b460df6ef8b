"""Black borders of a film, judged over all of it: a dark scene is no border.

A pixel counts as lit if it is lit in any frame. A border is rows, or columns, of which no pixel is, up to a straight
edge: along it most pixels are lit. Where light begins gradually, as around a lamp in the dark, or in parts, as by
subtitles below the picture, nothing is cropped.
"""

import dataclasses

import numpy as np

from lcv_jax.array_types import Float, UInt8

_EVERY = 4
"""Frames from one that is looked at to the next."""
_BLACKEST, _NOISE = 28.0, 4.0
"""Levels: a border is never brighter than the first; what is lit is brighter than the border by the second."""
_RINGING, _BLOCK = 0.15, 16
"""Share of the picture's brightness, and pixels, by which compression lets it ring beyond an edge."""
_LIT, _SOFT = 0.5, 0.05
"""Shares of a row: the first along an edge, at most the second within a border."""
_SOFT_ROWS = 2
"""That may lie between, where compression softens the edge."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Box:
    """A part of a picture in pixels."""

    top: int
    left: int
    height: int
    width: int

    def even(self) -> "Box":
        """With an even height and width, as codecs want it: less a row or a column."""
        return dataclasses.replace(self, height=self.height // 2 * 2, width=self.width // 2 * 2)


class BorderFinder:
    """Sees the frames of a film one by one."""

    def __init__(self) -> None:
        self._count, self._brightest = 0, np.zeros((0, 0), np.uint8)

    def see(self, frame_HWC: UInt8[np.ndarray, "H W 3"]) -> None:
        """Takes the next frame."""
        if self._count % _EVERY == 0:
            red, green, blue = (frame_HWC[..., channel] for channel in range(3))
            level = np.maximum(np.maximum(red, green), blue)
            self._brightest = np.maximum(self._brightest, level) if self._count else level
        self._count += 1

    def box(self) -> Box:
        """The picture within the borders; all of it where there are none.

        Raises:
            ValueError: no frame was seen.
        """
        if not self._count:
            raise ValueError("black borders are those of frames: none was seen")
        return find_box(self._brightest.astype(np.float32))


def find_box(level_HW: Float[np.ndarray, "H W"]) -> Box:
    """The picture within black borders, given how bright each pixel ever is."""
    height, width = level_HW.shape
    top, bottom, left, right = 0, height, 0, width
    # Rows are judged within the columns of the picture and columns within its rows, so once more when both are known.
    for _ in range(2):
        rows = level_HW[:, left:right]
        top, bottom = _border(rows), height - _border(rows[::-1])
        columns = level_HW[top:bottom].T
        left, right = _border(columns), width - _border(columns[::-1])
    return Box(top=top, left=left, height=bottom - top, width=right - left)


def _border(rows_HW: np.ndarray) -> int:
    """How many rows from the first on are black; 0 if the picture beyond has no straight edge."""
    black = float(np.quantile(rows_HW[0], 0.99))
    if black > _BLACKEST:
        return 0
    brightness = float(np.quantile(rows_HW, 0.9)) - black
    lit_H = (rows_HW > black + max(_NOISE, _RINGING * brightness)).mean(axis=1)
    if lit_H.max() < _SOFT:
        return 0
    edge = int(np.argmax(lit_H >= _LIT * lit_H.max()))
    soft = int(np.argmax(lit_H > _SOFT * lit_H.max()))
    # Compression lets the picture ring in the border, as far as its blocks go. Farther out all is black.
    outer_HW = rows_HW[: max(edge - _BLOCK, 0)]
    if outer_HW.size and (outer_HW > black + _NOISE).mean() > _SOFT:
        return 0
    # More than half of the picture is no border.
    return edge if edge - soft <= _SOFT_ROWS and edge < len(rows_HW) / 2 else 0
