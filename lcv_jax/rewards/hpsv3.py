"""What HPSv3 (arXiv 2508.03789) sees of a picture: about 200704 pixels in its own ratio, resized as Pillow does."""

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.bicubic import resize_like_pillow
from lcv_jax.data.patches import PATCH, fitting_size, patches
from lcv_jax.models.judges import JudgeConfig


def picture_grid(shape: tuple[int, ...], cfg: JudgeConfig) -> tuple[int, int, int]:
    """Temporal patches, rows and columns of patches of a picture.

    Raises:
        ValueError: its ratio is above 200.
    """
    height, width = fitting_size(shape[0], shape[1], cfg.min_pixels, cfg.max_pixels)
    return 1, height // PATCH, width // PATCH


def picture_patches(image_HWC: UInt8[np.ndarray, "H W 3"], cfg: JudgeConfig) -> UInt8[np.ndarray, "1 S C"]:
    """The patches of a picture."""
    _, rows, columns = picture_grid(image_HWC.shape, cfg)
    return patches(resize_like_pillow(image_HWC, rows * PATCH, columns * PATCH)[None])
