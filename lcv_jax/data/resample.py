"""Linear resampling with aligned corners, as the coarse-to-fine step wants it (report section 3.6)."""

import jax.numpy as jnp

from lcv_jax.array_types import Array, Float


def resize_linear(x: Float[Array, "..."], axis: int, size: int) -> Float[Array, "..."]:
    """Resamples one axis to `size` points from its first to its last, linearly between neighbours."""
    length = x.shape[axis]
    if size == length:
        return x
    position = jnp.linspace(0, length - 1, size, dtype=jnp.float32)
    below = jnp.clip(jnp.floor(position).astype(jnp.int32), 0, max(length - 2, 0))
    shape = [1] * x.ndim
    shape[axis] = size
    fraction = (position - below).reshape(shape).astype(x.dtype)
    above = jnp.minimum(below + 1, length - 1)
    return jnp.take(x, below, axis) * (1 - fraction) + jnp.take(x, above, axis) * fraction


def upsample(video_THWC: Float[Array, "T H W C"], num_frames: int, height: int, width: int) -> Float[Array, "t h w C"]:
    """A clip at another size and number of frames: bilinear in space, then linear in time."""
    for axis, size in ((1, height), (2, width), (0, num_frames)):
        video_THWC = resize_linear(video_THWC, axis, size)
    return video_THWC
