"""RMS norm, rotary embedding and block means of queries or keys: Pallas on Triton.

Grid: (tiles of tokens, groups of heads, videos). A program keeps the cosines and sines of its tokens in registers and
walks the heads of its group; every number is read once and written once. A tile is at most a block, so that a program's
mean is of one block; means of smaller tiles are put together outside, where they are few.

Numerics: the norm and the turn are float32; between them the numbers are rounded to the inputs' dtype before and after
the weight, as the formulas of norm_rope.py do. Means are float32, of what was written.
Accepted: heads as wide as a power of two; any number of tokens.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from lcv_jax.array_types import Array
from lcv_jax.kernels.block_select import largest_divisor

TILE = 64
HEADS_A_PROGRAM = 8
NUM_WARPS = 8


def _kernel(x_ref, weight_ref, cos_ref, sin_ref, out_ref, means_ref, *, tile, heads, num_tokens, epsilon):
    index, first_head = pl.program_id(0), pl.program_id(1) * heads
    rows = pl.Slice(index * tile, tile)
    valid = None
    if num_tokens % tile:
        valid = (index * tile + jax.lax.iota(jnp.int32, tile) < num_tokens)[:, None]

    def load(ref, *place):
        shape = (tile, ref.shape[-1])
        mask = None if valid is None else jnp.broadcast_to(valid, shape)
        return plt.load(ref.at[rows, *place, :], mask=mask, other=None if valid is None else 0.0)

    cos_XH, sin_XH, weight_K = load(cos_ref), load(sin_ref), weight_ref[...]
    width = weight_K.shape[0]

    def turn(place, x_XK):
        head = first_head + place
        coming_XK = load(x_ref, jnp.minimum(head + 1, first_head + heads - 1))
        wide_XK = x_XK.astype(jnp.float32)
        wide_XK *= jax.lax.rsqrt(jnp.sum(wide_XK * wide_XK, axis=1) / width + epsilon)[:, None]
        normed_XK = (wide_XK.astype(x_XK.dtype) * weight_K[None, :]).astype(jnp.float32)
        even, odd = jax.lax.split(normed_XK.reshape(tile, width // 2, 2), (1, 1), axis=2)
        even, odd = even.reshape(cos_XH.shape), odd.reshape(cos_XH.shape)
        turned = jnp.stack([even * cos_XH - odd * sin_XH, odd * cos_XH + even * sin_XH], axis=-1)
        out_XK = turned.reshape(tile, width).astype(out_ref.dtype)
        mask = None if valid is None else jnp.broadcast_to(valid, out_XK.shape)
        plt.store(out_ref.at[rows, head, :], out_XK, mask=mask)
        if means_ref is not None:
            mean_K = jnp.sum(out_XK.astype(jnp.float32), axis=0) / tile
            plt.store(means_ref.at[index, head, :], mean_K)
        return coming_XK

    jax.lax.fori_loop(0, heads, turn, load(x_ref, first_head))


def forward(
    x_BSNK: Array,
    weight_K: Array,
    cos_SH: Array,
    sin_SH: Array,
    epsilon: float,
    block: int | None,
    *,
    interpret: bool = False,
) -> tuple[Array, Array | None]:
    """The rotated tokens, and with `block` the float32 means of their blocks."""
    B, S, N, K = x_BSNK.shape
    # The largest power of two that divides the block.
    tile = TILE if block is None else min(TILE, block & -block)
    num_tiles = pl.cdiv(S, tile)
    heads = largest_divisor(N, HEADS_A_PROGRAM)

    def tokens(rows: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, rows, N, K), lambda _, g, b: (b, 0, 0, 0))

    table = pl.BlockSpec((num_tiles * tile, K // 2), lambda _, g, b: (0, 0))
    rotated = jax.ShapeDtypeStruct(x_BSNK.shape, x_BSNK.dtype)
    means = None if block is None else jax.ShapeDtypeStruct((B, num_tiles, N, K), jnp.float32)
    rotated_BSNK, means_BINK = pl.pallas_call(
        functools.partial(_kernel, tile=tile, heads=heads, num_tokens=S, epsilon=epsilon),
        grid=(num_tiles, N // heads, B),
        in_specs=[
            tokens(num_tiles * tile),
            pl.BlockSpec((K,), lambda _, g, b: (0,)),
            table,
            table,
        ],
        out_specs=(tokens(num_tiles * tile), None if block is None else tokens(num_tiles)),
        out_shape=(rotated, means),
        compiler_params=plt.CompilerParams(num_warps=NUM_WARPS, num_stages=1),
        interpret=interpret,
        name="norm_rope",
    )(x_BSNK, weight_K.astype(x_BSNK.dtype), cos_SH, sin_SH)
    if means_BINK is not None and block is not None and tile != block:
        means_BINK = jnp.mean(means_BINK.reshape(B, S // block, block // tile, N, K), axis=2)
    return rotated_BSNK, means_BINK
