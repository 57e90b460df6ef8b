"""What gives away a policy that cheats: properties of its videos beside those of the model that it came from.

A policy that stands still, shouts in colours or draws every pixel's edge pleases some rewards. Its videos move less, or
are more saturated or sharper than the reference model's of the same prompts and noise.
"""

import numpy as np

from lcv_jax.array_types import Float, UInt8
from lcv_jax.rewards.readouts import grayscale


def probes(videos_BTHWC: UInt8[np.ndarray, "B T H W 3"]) -> dict[str, float]:
    """Means over videos, in levels of 0..255.

    Returns:
        motion_energy, the mean change from frame to frame; saturation, the largest channel less the smallest;
        sharpness, the mean absolute Laplacian of the luma.
    """
    frames = videos_BTHWC.astype(np.float32)
    motion = np.abs(np.diff(frames, axis=1)).mean() if frames.shape[1] > 1 else 0.0
    saturation = (frames.max(axis=-1) - frames.min(axis=-1)).mean()
    luma = grayscale(videos_BTHWC)[..., 0].astype(np.float32)
    return {
        "motion_energy": float(motion),
        "saturation": float(saturation),
        "sharpness": float(np.abs(_laplacian(luma)).mean()),
    }


def _laplacian(luma: Float[np.ndarray, "B T H W"]) -> Float[np.ndarray, "B T h w"]:
    centre = luma[..., 1:-1, 1:-1]
    return luma[..., :-2, 1:-1] + luma[..., 2:, 1:-1] + luma[..., 1:-1, :-2] + luma[..., 1:-1, 2:] - 4 * centre
