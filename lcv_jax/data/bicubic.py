"""Bicubic resizing of uint8 pictures with antialiasing, in the two ways that reward models were trained with.

Both take the same taps and the kernel of a = -1/2, whose support grows with the factor of shrinking, and both resize
the width before the height. Pillow rounds to uint8 between the two and has weights of 22 fractional bits; torchvision's
tensors stay in float32 to the end. The pictures differ in many pixels by one level.
"""

import numpy as np

from lcv_jax.array_types import Float, Int, Shaped, UInt8

SUPPORT = 2.0
FRACTION_BITS = 22


def resize_like_pillow(image_HWC: UInt8[np.ndarray, "H W C"], height: int, width: int) -> UInt8[np.ndarray, "h w C"]:
    """As `PIL.Image.resize` with BICUBIC, to the bit.

    Pillow since version 13 resizes the height first where it shrinks by far more pixels than the width; the released
    weights were trained with earlier ones.
    """
    for axis, size in ((1, width), (0, height)):
        if image_HWC.shape[axis] != size:
            first, weights = taps(image_HWC.shape[axis], size, np.float64)
            fixed = np.trunc(weights * (1 << FRACTION_BITS) + np.copysign(0.5, weights)).astype(np.int32)
            total = weighted_sum(image_HWC.astype(np.int32), axis, first, fixed)
            total += 1 << (FRACTION_BITS - 1)
            image_HWC = np.clip(total >> FRACTION_BITS, 0, 255).astype(np.uint8)
    return image_HWC


def resize_like_torchvision(
    image_HWC: UInt8[np.ndarray, "H W C"], height: int, width: int
) -> UInt8[np.ndarray, "h w C"]:
    """As torchvision resizes tensors with BICUBIC and antialiasing: but for rounding in the last bit of float32."""
    if image_HWC.shape[:2] == (height, width):
        return image_HWC
    wide_HWC = image_HWC.astype(np.float32)
    for axis, size in ((1, width), (0, height)):
        if wide_HWC.shape[axis] != size:
            wide_HWC = weighted_sum(wide_HWC, axis, *taps(wide_HWC.shape[axis], size, np.float32))
    return np.round(np.clip(wide_HWC, 0, 255)).astype(np.uint8)


def taps(
    length: int, size: int, dtype: type[np.floating]
) -> tuple[Int[np.ndarray, " size"], Float[np.ndarray, "size taps"]]:
    """The first of the neighbouring pixels that each resized pixel is made of, and their weights, which sum to one."""
    scale = dtype(length) / dtype(size)
    widening = max(scale, dtype(1))
    support = dtype(SUPPORT) * widening
    center = scale * (np.arange(size, dtype=dtype) + dtype(0.5))
    first = np.maximum((center - support + dtype(0.5)).astype(np.int64), 0)
    end = np.minimum((center + support + dtype(0.5)).astype(np.int64), length)
    at = first[:, None] + np.arange((end - first).max())
    distance = (at.astype(dtype) - center[:, None] + dtype(0.5)) * (dtype(1) / widening)
    weights = np.where(at < end[:, None], _bicubic(np.abs(distance)), dtype(0))
    return first, weights / weights.sum(axis=1, keepdims=True, dtype=dtype)


def _bicubic(x: np.ndarray) -> np.ndarray:
    a = x.dtype.type(-0.5)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, x.dtype.type(0)))


def weighted_sum(
    image: Shaped[np.ndarray, "H W C"], axis: int, first: np.ndarray, weights: np.ndarray
) -> Shaped[np.ndarray, "h w C"]:
    """Along an axis, sums of neighbouring pixels, in the image's own kind of number."""
    last = image.shape[axis] - 1
    shape = [1, 1, 1]
    shape[axis] = len(first)
    total: np.ndarray = np.zeros((), image.dtype)
    for tap in range(weights.shape[1]):
        # Beyond the end the weight is zero, whatever pixel is taken.
        pixels = np.take(image, np.minimum(first + tap, last), axis=axis)
        total = total + pixels * weights[:, tap].reshape(shape)
    return total
