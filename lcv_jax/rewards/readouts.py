"""From scores of frames to scores of videos, and what a reward is shown (report, section 4, "Reward models")."""

import math

import numpy as np

from lcv_jax.array_types import Float, UInt8

QUALITY_PROMPT = "A high-quality image"
"""What a frame's quality is scored with, whatever the caption."""
BEST_SHARE = 0.3
"""Of frames, which the caption is compared with."""


def mean_of_frames(scores_T: Float[np.ndarray, "*B T"]) -> Float[np.ndarray, "*B"]:
    """Over all frames; used with `QUALITY_PROMPT`."""
    return scores_T.mean(axis=-1)


def mean_of_best_frames(scores_T: Float[np.ndarray, "*B T"], share: float = BEST_SHARE) -> Float[np.ndarray, "*B"]:
    """Over the highest `share` of all frames, rounded up, one at least; used with the caption. NaN stays NaN.

    Raises:
        ValueError: the share is not within 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in 0..1, got {share}")
    num_frames = scores_T.shape[-1]
    # 0.3 * 10 is a little more than 3.
    count = max(1, math.ceil(share * num_frames - 1e-9))
    # NaN sorts last, and so is among the highest.
    return np.sort(scores_T, axis=-1)[..., num_frames - count :].mean(axis=-1)


def grayscale(videos: UInt8[np.ndarray, "*BTHW 3"]) -> UInt8[np.ndarray, "*BTHW 3"]:
    """Luma of BT.601 in three equal channels: motion is judged without colour."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    luma = np.clip(videos.astype(np.float32) @ weights + np.float32(0.5), 0, 255).astype(np.uint8)
    return np.repeat(luma[..., None], 3, axis=-1)
