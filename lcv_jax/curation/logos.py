"""Watermarks and logos: edges that stay where they are over several shots of one source.

A source is judged as a whole, by frames of different shots: what is over all of them belongs to none. The median of
the gradients over those frames keeps what stays and loses the rest (Dekel et al. 2017). Text that stays is a mark too.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.extras import import_extra

Box = tuple[float, float, float, float]
"""Left, top, width and height, as shares of the frame."""
LEAST_SHOTS = 6
"""Below, what stays cannot be told from what is there."""
_SIDE = 180
"""Pixels of the shorter side where edges are compared."""
_NEAR_BLACK = 20
"""Levels; a frame with hardly a pixel that is brighter shows no logo."""
_ALIKE, _DIFFERENT_SHARE = 8, 0.25
"""Levels by which cells of a tiny picture differ, and the share of the cells that do in frames of different shots."""
_EDGE = 6.0
"""Levels a pixel, of the median over the shots."""
_COHERENT = 0.75
"""Of the median edge's length over the edges' median length: 1 where all are the same, small where they differ."""
_FAINT = 2.0
"""Levels a pixel, in the direction of the median, that every shot should have: a white logo is faint over white."""
_AGREE = 0.9
"""Share of the shots that have it. Lines of subtitles have edges in common too, in fewer."""
_LEAST_PIXELS = 14
"""Of edges that stay, in one place."""
_TEXT_SHARE = 0.6
"""Of the shots that have text in a box."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logo:
    """What stays over the shots of a source."""

    box: Box | None
    """Around the largest mark; None: there is no mark."""
    area: float
    """Of the box, a share of the frame."""
    strength: float
    """Mean of the edges in it that stay, levels a pixel."""
    shots: int
    """That were compared."""


def find_logo(frames: Iterable[UInt8[np.ndarray, "H W 3"]]) -> Logo | None:
    """The mark over a source; None where too few frames can be compared.

    Args:
        frames: of one size, one of each of several shots. Near-black ones are left out, and those that look like an
            earlier one: what stays within a shot is no logo.
    """
    thumbs: list[np.ndarray] = []
    edges: list[np.ndarray] = []
    brightest_HW = np.zeros((1, 1), np.uint8)
    for frame_HWC in frames:
        small_HW, thumb_hwC = _small(frame_HWC), _thumb(frame_HWC)
        if not _is_near_black(small_HW) and not any(_look_alike(thumb_hwC, other) for other in thumbs):
            thumbs.append(thumb_hwC)
            edges.append(_edges(small_HW))
            brightest_HW = np.maximum(brightest_HW, small_HW)
    if len(edges) < LEAST_SHOTS:
        return None
    edges_K2HW = np.stack(edges)
    stays_HW = _staying(edges_K2HW) & ~_at_borders(brightest_HW)
    box, strength = _largest(stays_HW, np.linalg.norm(np.median(edges_K2HW, axis=0), axis=0))
    area = 0.0 if box is None else box[2] * box[3]
    return Logo(box=box, area=area, strength=strength, shots=len(edges))


def staying_text(text_boxes: Sequence[Sequence[Box]]) -> Box | None:
    """The text box that most of the shots have in the same place, if most do: a mark that can be read.

    Args:
        text_boxes: of a frame of each of several shots.
    """
    if len(text_boxes) < LEAST_SHOTS:
        return None
    candidates = [box for boxes in text_boxes for box in boxes]
    counts = [sum(any(_overlap(box, other) > 0.6 for other in boxes) for boxes in text_boxes) for box in candidates]
    if not counts or max(counts) < _TEXT_SHARE * len(text_boxes):
        return None
    return candidates[int(np.argmax(counts))]


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    sides = [
        max(0.0, min(one[axis] + one[axis + 2], other[axis] + other[axis + 2]) - max(one[axis], other[axis]))
        for axis in range(2)
    ]
    common = sides[0] * sides[1]
    return common / max(one[2] * one[3] + other[2] * other[3] - common, 1e-9)


def _small(frame_HWC: np.ndarray) -> np.ndarray:
    cv2 = import_extra("cv2", "curate", "finding logos needs")
    grey_HW = cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY)
    scale = _SIDE / min(grey_HW.shape)
    if scale >= 1:
        return grey_HW
    size = round(grey_HW.shape[1] * scale), round(grey_HW.shape[0] * scale)
    return cv2.resize(grey_HW, size, interpolation=cv2.INTER_AREA)


def _thumb(frame_HWC: np.ndarray) -> np.ndarray:
    cv2 = import_extra("cv2", "curate", "finding logos needs")
    return cv2.resize(frame_HWC, (16, 16), interpolation=cv2.INTER_AREA).astype(np.int16)


def _look_alike(one_hwC: np.ndarray, other_hwC: np.ndarray) -> bool:
    """Whether two frames are of one shot of a camera that does not move, whatever moves before it."""
    lit_hw = np.maximum(one_hwC, other_hwC).max(axis=-1) > _NEAR_BLACK
    differ_hw = np.abs(one_hwC - other_hwC).max(axis=-1) > _ALIKE
    return bool(differ_hw[lit_hw].mean() < _DIFFERENT_SHARE) if lit_hw.any() else True


def _is_near_black(grey_HW: np.ndarray) -> bool:
    return float(np.percentile(grey_HW, 99.5)) < _NEAR_BLACK


def _edges(grey_HW: np.ndarray) -> np.ndarray:
    """Gradients, 2 H W, in levels a pixel."""
    cv2 = import_extra("cv2", "curate", "finding logos needs")
    smooth_HW = cv2.GaussianBlur(grey_HW.astype(np.float32), (0, 0), 0.7)
    return np.stack([cv2.Sobel(smooth_HW, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1))])


def _staying(edges_K2HW: np.ndarray) -> np.ndarray:
    """Places whose edge most of the shots have, in the same direction, away from borders and the frame's own."""
    median_2HW = np.median(edges_K2HW, axis=0)
    strength_HW = np.linalg.norm(median_2HW, axis=0)
    along_KHW = (edges_K2HW * (median_2HW / np.maximum(strength_HW, 1e-6))).sum(axis=1)
    agree_HW = (along_KHW > _FAINT).mean(axis=0)
    typical_HW = np.median(np.linalg.norm(edges_K2HW, axis=1), axis=0)
    stays_HW = (strength_HW > _EDGE) & (strength_HW > _COHERENT * typical_HW) & (agree_HW >= _AGREE)
    return stays_HW & ~_straight_lines(stays_HW)


def _at_borders(brightest_HW: np.ndarray) -> np.ndarray:
    """Rows and columns that are black in all shots, and those beside them."""
    cv2 = import_extra("cv2", "curate", "finding logos needs")
    black_HW = brightest_HW <= _NEAR_BLACK
    rows_H1, columns_1W = (black_HW.mean(axis=axis, keepdims=True) > 0.98 for axis in (1, 0))
    return cv2.dilate((rows_H1 | columns_1W).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0


def _straight_lines(stays_HW: np.ndarray) -> np.ndarray:
    """Edges that run through a quarter of the frame: those of black borders, split screens and tickers."""
    H, W = stays_HW.shape
    rows_H1 = stays_HW.sum(axis=1, keepdims=True) > W / 4
    columns_1W = stays_HW.sum(axis=0, keepdims=True) > H / 4
    near_H1 = rows_H1 | np.roll(rows_H1, 1, 0) | np.roll(rows_H1, -1, 0)
    near_1W = columns_1W | np.roll(columns_1W, 1, 1) | np.roll(columns_1W, -1, 1)
    return np.broadcast_to(near_H1 | near_1W, (H, W))


def _largest(stays_HW: np.ndarray, strength_HW: np.ndarray) -> tuple[Box | None, float]:
    """The box around the largest group of places, and the mean strength of the edges in it."""
    cv2 = import_extra("cv2", "curate", "finding logos needs")
    H, W = stays_HW.shape
    joined_HW = cv2.dilate(stays_HW.astype(np.uint8), np.ones((7, 7), np.uint8))
    count, groups_HW = cv2.connectedComponents(joined_HW)
    sizes = [int((stays_HW & (groups_HW == group)).sum()) for group in range(1, count)]
    if not sizes or max(sizes) < _LEAST_PIXELS:
        return None, 0.0
    places_HW = stays_HW & (groups_HW == 1 + int(np.argmax(sizes)))
    y, x = np.nonzero(places_HW)
    box = (x.min() / W, y.min() / H, (x.max() + 1 - x.min()) / W, (y.max() + 1 - y.min()) / H)
    return tuple(map(float, box)), float(strength_HW[places_HW].mean())  # type: ignore[return-value]
