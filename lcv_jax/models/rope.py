"""Rotary position embedding in 3D (report section 3.1): frame, row and column each turn a part of every head.

Here are the angles; kernels/norm_rope.py turns by them.
"""

import jax.numpy as jnp

from lcv_jax.array_types import Array, Float, Int

RopeTable = tuple[Float[Array, "S half"], Float[Array, "S half"]]


def rope_table(
    grid: tuple[int, int, int], head_dim: int, frames_T: Int[Array, " T"] | None = None, base: float = 10000.0
) -> RopeTable:
    """Cosines and sines of a T x H x W grid's tokens in plain order, float32.

    Rows and columns get 2 * (head_dim // 6) channels each, frames the rest; the order in a head is frame, row, column.

    Args:
        frames_T: positions of the frames; None is 0, 1, ..., T - 1.
    """
    spatial = 2 * (head_dim // 6)
    places = [jnp.arange(extent, dtype=jnp.float32) for extent in grid]
    if frames_T is not None:
        places[0] = frames_T.astype(jnp.float32)
    angles = []
    for axis, (place, width) in enumerate(zip(places, (head_dim - 2 * spatial, spatial, spatial), strict=True)):
        frequency = base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
        angle = place[:, None] * frequency
        shape = [1, 1, 1, width // 2]
        shape[axis] = grid[axis]
        angles.append(jnp.broadcast_to(angle.reshape(shape), (*grid, width // 2)))
    angle_SH = jnp.concatenate(angles, axis=-1).reshape(-1, head_dim // 2)
    return jnp.cos(angle_SH), jnp.sin(angle_SH)
