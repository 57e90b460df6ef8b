"""Clips side by side as one picture."""

from collections.abc import Sequence

import numpy as np

from lcv_jax.array_types import UInt8


def rows_of_clips(
    clips: Sequence[UInt8[np.ndarray, "_ _ _ 3"]], num_frames: int = 6, scale: int = 2, gap: int = 4
) -> UInt8[np.ndarray, "height width 3"]:
    """A row of frames at even distances for each clip, first and last among them, on white.

    Args:
        clips: of one size, though not of one length.
        num_frames: of each.
        scale: pixels for one of a clip.
        gap: pixels between clips.

    Raises:
        ValueError: no clips, or clips of several sizes.
    """
    sizes = {clip.shape[1:] for clip in clips}
    if len(sizes) != 1:
        raise ValueError(f"a sheet needs clips, and of one size; got {len(clips)} clips of sizes {sorted(sizes)}")
    rows = []
    for clip in clips:
        shown = np.linspace(0, len(clip) - 1, num_frames).round().astype(int)
        frames = clip[shown].repeat(scale, axis=1).repeat(scale, axis=2)
        padded = np.pad(frames, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
        rows.append(np.pad(np.concatenate(list(padded), axis=1), ((0, gap), (0, 0), (0, 0)), constant_values=255))
    return np.concatenate(rows)
