"""Block masks from a rule on where a query block and a key block lie in the video.

A pattern is a function of the (t, h, w) coordinates of blocks, integer arrays that broadcast to queries x keys:

    def same_frames(query, key):
        return query[0] == key[0]

    video = {"query_shape": (24, 44, 80), "key_shape": (24, 44, 80), "query_block": (4, 4, 4), "key_block": (4, 4, 4)}
    block_sparse_attention(q, k, v, **video, block_mask=block_mask(same_frames, **video))

Patterns run in numpy, when a program is traced: the longest list of blocks is then known, and nothing longer is made.
"""

from collections.abc import Callable

import numpy as np

from lcv_jax.array_types import Bool
from lcv_jax.kernels.block_order import Shape3D

Coordinates = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of blocks: along time, height and width."""

BlockPattern = Callable[[Coordinates, Coordinates], np.ndarray]
"""Query blocks' and key blocks' coordinates to True where the query block attends to the key block."""


def space_and_time(query: Coordinates, key: Coordinates) -> np.ndarray:
    """Block-wise 2D+1D (report section 3.4): all blocks of the same frames, and the same place in all frames."""
    (query_t, query_h, query_w), (key_t, key_h, key_w) = query, key
    return (query_t == key_t) | ((query_h == key_h) & (query_w == key_w))


def block_mask(
    pattern: BlockPattern, *, query_shape: Shape3D, key_shape: Shape3D, query_block: Shape3D, key_block: Shape3D
) -> Bool[np.ndarray, "I J"]:
    """The mask of a pattern, for blocks in (T, H, W) order; arguments are those of `block_sparse_attention`.

    Tokens in one order for two block sizes have their smaller blocks nested instead: put that axis of the mask through
    `TokenOrder(order.levels[:-1]).apply`.

    Queries are the last frames of the keys, as where condition frames come first and are only attended to. Where query
    and key blocks differ in size, coordinates count in the larger of the two along each axis, so that equal coordinates
    mean that the smaller block lies within the larger.

    Raises:
        ValueError: a shape is no multiple of its block; queries do not start at a boundary of their blocks.
    """
    for name, shape, block in (("query", query_shape, query_block), ("key", key_shape, key_block)):
        if any(extent % side for extent, side in zip(shape, block, strict=True)):
            raise ValueError(f"block mask: {name}_shape must be a multiple of {name}_block {block}, got {shape}")
    if query_shape[1:] != key_shape[1:]:
        raise ValueError(f"block mask: queries {query_shape} and keys {key_shape} must agree in height and width")
    frames_before = key_shape[0] - query_shape[0]
    if frames_before < 0 or frames_before % query_block[0]:
        raise ValueError(
            f"block mask: keys must have a multiple of {query_block[0]} frames (a query block) before the "
            f"{query_shape[0]} of the queries, got {key_shape[0]} frames of keys"
        )

    def coordinates(shape: Shape3D, block: Shape3D, first_frame: int) -> list[np.ndarray]:
        grid = [extent // side for extent, side in zip(shape, block, strict=True)]
        first = (first_frame, 0, 0)
        return [
            (index.reshape(-1) * block[axis] + first[axis]) // max(query_block[axis], key_block[axis])
            for axis, index in enumerate(np.indices(grid))
        ]

    t, h, w = (x[:, None] for x in coordinates(query_shape, query_block, frames_before))
    key_t, key_h, key_w = (x[None, :] for x in coordinates(key_shape, key_block, 0))
    mask = np.asarray(pattern((t, h, w), (key_t, key_h, key_w)))
    return np.ascontiguousarray(np.broadcast_to(mask, (t.size, key_t.size)), dtype=bool)
