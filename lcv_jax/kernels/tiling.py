"""How the Pallas kernels cut their work, and the loads and stores of their tiles.

A program works on one tile of rows and walks the tiles of the other side. Tiles are powers of two, as Triton wants
them; a block of another size is covered by tiles whose last rows are masked, a head of another width by masked columns.
"""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from lcv_jax.array_types import Array
from lcv_jax.kernels.block_select import Selection

State = TypeVar("State")

MIN_TILE = 16
"""Smallest side of a matrix product in Triton."""


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Tiles of a program, and how Triton is to run it."""

    tile_q: int
    tile_k: int
    num_warps: int
    num_stages: int
    """Loads in flight: 1 is one after another."""


def power_of_two(size: int) -> int:
    """The smallest power of two that covers `size` and is a tile."""
    return max(MIN_TILE, 1 << (size - 1).bit_length())


def own_tile(block: int, most: int = 128) -> int:
    """Rows that a program keeps: masked ones cost little, so a large tile may overhang its block by an eighth."""
    if block <= most // 2:
        return power_of_two(block)
    return most if -block % most <= block // 8 else most // 2


def step_tile(block: int, most: int) -> int:
    """Rows that a program walks: masks cost in every step, so half of `most` where that leaves none."""
    if block < most:
        return power_of_two(block)
    return most // 2 if block % most and block % (most // 2) == 0 else most


def block_and_tile(index: Array, block: int, tile: int) -> tuple[Array, Array | int]:
    """Of the index-th tile: its block, and the tile's first row inside the block."""
    tiles = pl.cdiv(block, tile)
    if tiles == 1:
        return index, 0
    return jax.lax.div(index, tiles), jax.lax.rem(index, tiles) * tile


def walk(
    visit: Callable[[Array | int, Array | int, State], State],
    state: State,
    num_blocks: Array | int,
    block: int,
    tile: int,
    read: Callable[[Array], Array] | None = None,
    most: Array | int = 0,
) -> State:
    """Visits the tiles of all blocks of a list, block after block.

    The next block's index is read a step ahead and carried: where the address of a tile waits for a load of its own
    step, Triton cannot have tiles under way across steps.

    Args:
        visit: of a block, the first row of a tile in it, and the state, to the state.
        read: the block at a place of the list; None: there is one block, 0.
        most: last place that may be read.
    """
    tiles = pl.cdiv(block, tile)
    if read is None:

        def step(index: Array, state: State) -> State:
            return visit(0, block_and_tile(index, block, tile)[1], state)

        return jax.lax.fori_loop(0, num_blocks * tiles, step, state)

    def step_ahead(index: Array, carried: tuple[State, Array]) -> tuple[State, Array]:
        state, here = carried
        state = visit(here, block_and_tile(index, block, tile)[1], state)
        coming, _ = block_and_tile(index + 1, block, tile)
        return state, read(jnp.minimum(coming, most))

    first = read(jnp.minimum(0, most))
    return jax.lax.fori_loop(0, num_blocks * tiles, step_ahead, (state, first))[0]


def tokens_of_a_head(x_BSNK: Array, rows: int) -> pl.BlockSpec:
    """All tokens of one head of one video, for a grid of (tiles, heads, videos); nothing is loaded by it.

    Args:
        rows: rows that tiles may touch, masked ones past the end included.
    """
    return pl.BlockSpec((None, rows, None, power_of_two(x_BSNK.shape[-1])), lambda _, n, b: (b, 0, n, 0))


def numbers_of_a_head(rows: int) -> pl.BlockSpec:
    """The same of one number a token, B N S."""
    return pl.BlockSpec((None, None, rows), lambda _, n, b: (b, n, 0))


def keys_of_a_video(rows: int) -> pl.BlockSpec:
    """The same of a key mask, B M."""
    return pl.BlockSpec((None, rows), lambda _, n, b: (b, 0))


def lists_of_a_head(selection: Selection) -> tuple[pl.BlockSpec, pl.BlockSpec]:
    """The indices and counts of one head of one video."""
    indices = pl.BlockSpec((None, None, *selection.indices_BNIR.shape[2:]), lambda _, n, b: (b, n, 0, 0))
    return indices, numbers_of_a_head(selection.counts_BNI.shape[-1])


def rows_of(block_index: Array | int, start: Array | int, block: int, tile: int) -> tuple[pl.Slice, Array | None]:
    """Rows of the tile that starts at `start` in its block, and which of them are in the block; None is all."""
    rows = pl.Slice(block_index * block + start, tile)
    return rows, None if block % tile == 0 else start + jax.lax.iota(jnp.int32, tile) < block


def _mask(shape: tuple[int, ...], valid: Array | None, width: int) -> Array | None:
    mask = None if valid is None else jnp.broadcast_to(valid[:, None], shape)
    if width == shape[1]:
        return mask
    columns = jax.lax.broadcasted_iota(jnp.int32, shape, 1) < width
    return columns if mask is None else mask & columns


def load_tile(ref, rows: pl.Slice, valid: Array | None, width: int) -> Array:
    """A tile of the rows, zero where it leaves its block or the head's width."""
    mask = _mask((int(rows.size), ref.shape[1]), valid, width)
    return plt.load(ref.at[rows, :], mask=mask, other=None if mask is None else 0.0)


def load_row(ref, rows: pl.Slice, valid: Array | None) -> Array:
    """One number for each row of a tile, zero (False) where it leaves its block."""
    return plt.load(ref.at[rows], mask=valid, other=None if valid is None else jnp.zeros((), ref.dtype))


def store_tile(ref, rows: pl.Slice, tile: Array, valid: Array | None, width: int) -> None:
    """Writes what `load_tile` would read."""
    plt.store(ref.at[rows, :], tile.astype(ref.dtype), mask=_mask(tile.shape, valid, width))


def product(x: Array, y: Array, *, transpose: bool = False) -> Array:
    """The product x y or x y^T, with a float32 sum; float32 operands are multiplied as such."""
    return plt.dot(x, y, trans_b=transpose, precision=jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None)
