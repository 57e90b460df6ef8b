"""Pictures and frames as Qwen2-VL's vision tower takes them: their size, and their patches in order (arXiv 2409.12191).

A temporal patch is two frames; a picture is two equal ones. Patches are ordered by blocks of 2 x 2, which
the tower merges. Numbers of a patch are channel, frame, row, column.
"""

import math

import numpy as np

from lcv_jax.array_types import Float, Int, UInt8

PATCH, MERGE, FRAMES = 14, 2, 2
FACTOR = PATCH * MERGE
"""Heights and widths are multiples of it."""
MAX_RATIO = 200
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def fitting_size(height: int, width: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The height and width to resize to: multiples of 28 near the ratio, with pixels within the two limits.

    Raises:
        ValueError: one side is more than 200 times the other.
    """
    if min(height, width) < 1:
        raise ValueError(f"a picture of {height} x {width} pixels has no pixels")
    if max(height, width) > MAX_RATIO * min(height, width):
        raise ValueError(f"a picture of {height} x {width} pixels: one side is above {MAX_RATIO} times the other")
    fit_height, fit_width = (max(FACTOR, round(side / FACTOR) * FACTOR) for side in (height, width))
    if fit_height * fit_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        return tuple(math.floor(side / shrink / FACTOR) * FACTOR for side in (height, width))  # type: ignore[return-value]
    if fit_height * fit_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        return tuple(math.ceil(side * grow / FACTOR) * FACTOR for side in (height, width))  # type: ignore[return-value]
    return fit_height, fit_width


def patches(frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "t S C"]:
    """The patches of every two frames, in the tower's order; one frame counts twice.

    Raises:
        ValueError: an odd number of frames above one, or sides that are no multiples of 28.
    """
    if len(frames_THWC) == 1:
        frames_THWC = np.repeat(frames_THWC, FRAMES, axis=0)
    T, H, W, C = frames_THWC.shape
    if T % FRAMES or H % FACTOR or W % FACTOR:
        raise ValueError(
            f"{T} frames of {H} x {W}: patches need an even number of frames, of sides that are multiples of {FACTOR}"
        )
    split = frames_THWC.reshape(T // FRAMES, FRAMES, H // FACTOR, MERGE, PATCH, W // FACTOR, MERGE, PATCH, C)
    return split.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(T // FRAMES, -1, C * FRAMES * PATCH * PATCH)


def normalise(patches: UInt8[np.ndarray, "... C"]) -> Float[np.ndarray, "... C"]:
    """Patches as the network sees them."""
    scaled = (patches * (1 / 255)).astype(np.float32)
    per_channel = patches.shape[-1] // 3
    return (scaled - np.repeat(MEAN, per_channel)) / np.repeat(STD, per_channel)


def cells(rows: int, columns: int) -> Int[np.ndarray, "S 2"]:
    """Row and column of each patch of a grid, in the tower's order."""
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).astype(np.int32)
    blocks = grid.reshape(rows // MERGE, MERGE, columns // MERGE, MERGE, 2)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(-1, 2)
