"""Runs a function of clips tile by tile and blends the tiles, as published.

Tiles overlap; of each the upper left part of one stride is kept, after its upper and left margins are blended linearly
with those of the neighbours there. The last tiles of a row or column may be smaller. Tiles of one size are mapped over
inside one compiled loop, so that what is compiled does not grow with the number of tiles and what is in memory is one
tile's work.
"""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Float

Clip = Float[Array, "_ _ _ _ _"]  # B T H W C, of a tile or of all of it, going in or coming out
Size = tuple[int, int]


def over_tiles(
    function: Callable[[Clip], Clip], x_BTHWC: Clip, tile: Size, stride: Size, tile_out: Size, stride_out: Size
) -> Clip:
    """`function` of overlapping tiles of a clip, put together again; a clip no larger than one tile is not cut.

    Args:
        function: scales height and width by tile_out / tile.
        x_BTHWC: the clip.
        tile: height and width of a tile.
        stride: from one tile to the next; at most `tile`.
        tile_out: height and width of what `function` makes of a tile.
        stride_out: from one such to the next.
    """
    if all(x_BTHWC.shape[2 + i] <= tile[i] for i in range(2)):
        return function(x_BTHWC)
    tops, lefts = (range(0, x_BTHWC.shape[2 + i], stride[i]) for i in range(2))
    done = _map_tiles(function, x_BTHWC, list(itertools.product(tops, lefts)), tile)
    margin = [tile_out[i] - stride_out[i] for i in range(2)]
    rows: list[list[Clip]] = []
    for row in tops:
        rows.append([])
        for column in lefts:
            # Neighbours are blended already where they meet this one: so it was published.
            here = done[row, column]
            if row:
                here = _blend(done[row - stride[0], column], here, margin[0], axis=2)
            if column:
                here = _blend(done[row, column - stride[1]], here, margin[1], axis=3)
            done[row, column] = here
            rows[-1].append(here[:, :, : stride_out[0], : stride_out[1]])
    return jnp.concatenate([jnp.concatenate(row, axis=3) for row in rows], axis=2)


def _map_tiles(function: Callable, x_BTHWC: Clip, corners: list[Size], tile: Size) -> dict[Size, Clip]:
    """`function` of each tile, by its upper left corner."""
    height, width = x_BTHWC.shape[2:4]
    by_size: dict[Size, list[Size]] = {}
    for top, left in corners:
        by_size.setdefault((min(tile[0], height - top), min(tile[1], width - left)), []).append((top, left))
    done: dict[Size, Clip] = {}
    for (tile_height, tile_width), alike in by_size.items():

        def run(corner: Array, tile_height: int = tile_height, tile_width: int = tile_width) -> Clip:
            rows = jax.lax.dynamic_slice_in_dim(x_BTHWC, corner[0], tile_height, axis=2)
            return function(jax.lax.dynamic_slice_in_dim(rows, corner[1], tile_width, axis=3))

        done |= dict(zip(alike, jax.lax.map(run, jnp.array(alike)), strict=True))
    return done


def _blend(before: Clip, here: Clip, margin: int, axis: int) -> Clip:
    """`here` with its first `margin` rows or columns running over linearly from the last ones of `before`."""
    margin = min(margin, before.shape[axis], here.shape[axis])
    length = before.shape[axis]
    old = jax.lax.slice_in_dim(before, length - margin, length, axis=axis)
    new, rest = jnp.split(here, [margin], axis=axis)
    share = (jnp.arange(margin, dtype=jnp.float32) / max(margin, 1)).reshape([-1 if i == axis else 1 for i in range(5)])
    return jnp.concatenate([old * (1 - share) + new * share, rest], axis=axis)
