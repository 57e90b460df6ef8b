"""A gated residual and the layer norm behind it, in one pass over the tokens: Pallas on Triton.

Grid: (tiles of tokens of one frame each, videos). A program keeps its frame's gate and the norm's weight and bias in
registers and walks its tokens; the two rows of a token are read once, a step ahead, and its two results written once.

Numerics: the sum is float32 and rounded to the tokens' dtype, and the norm, in float32, is of what was rounded.
Accepted: as many channels as a power of two; tiles that divide the tokens.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from lcv_jax.array_types import Array

NUM_WARPS = 8


def _kernel(frames_ref, x_ref, branch_ref, gate_ref, weight_ref, bias_ref, sum_ref, normed_ref, *, tile, epsilon):
    index = pl.program_id(0)
    gate_D = plt.load(gate_ref.at[plt.load(frames_ref.at[index]), :])
    weight_D, bias_D = weight_ref[...], bias_ref[...]
    width = weight_D.shape[0]

    def load(place):
        token = index * tile + place
        return plt.load(x_ref.at[token, :]), plt.load(branch_ref.at[token, :])

    def add_and_norm(place, rows):
        x_D, branch_D = rows
        coming = load(jnp.minimum(place + 1, tile - 1))
        total_D = (x_D.astype(jnp.float32) + branch_D.astype(jnp.float32) * gate_D).astype(sum_ref.dtype)
        plt.store(sum_ref.at[index * tile + place, :], total_D)
        wide_D = total_D.astype(jnp.float32)
        wide_D -= jnp.sum(wide_D) / width
        wide_D *= jax.lax.rsqrt(jnp.sum(wide_D * wide_D) / width + epsilon)
        plt.store(normed_ref.at[index * tile + place, :], (wide_D * weight_D + bias_D).astype(normed_ref.dtype))
        return coming

    jax.lax.fori_loop(0, tile, add_and_norm, load(0))


def forward(
    frames_I: Array,
    x_BSD: Array,
    branch_BSD: Array,
    gate_BTD: Array,
    weight_D: Array,
    bias_D: Array,
    epsilon: float,
    *,
    interpret: bool = False,
) -> tuple[Array, Array]:
    """The sum and its norm.

    Args:
        frames_I: the frame of each tile of tokens; a tile is as many tokens as there are for each of these.
    """
    B, S, D = x_BSD.shape
    num_tiles = frames_I.shape[0]
    tokens = pl.BlockSpec((None, S, D), lambda _, b: (b, 0, 0))
    channels = pl.BlockSpec((D,), lambda _, b: (0,))
    return tuple(
        pl.pallas_call(
            functools.partial(_kernel, tile=S // num_tiles, epsilon=epsilon),
            grid=(num_tiles, B),
            in_specs=[
                pl.BlockSpec((num_tiles,), lambda _, b: (0,)),
                tokens,
                tokens,
                pl.BlockSpec((None, *gate_BTD.shape[1:]), lambda _, b: (b, 0, 0)),
                channels,
                channels,
            ],
            out_specs=(tokens, tokens),
            out_shape=(jax.ShapeDtypeStruct(x_BSD.shape, x_BSD.dtype),) * 2,
            compiler_params=plt.CompilerParams(num_warps=NUM_WARPS, num_stages=1),
            interpret=interpret,
            name="residual_norm",
        )(frames_I, x_BSD, branch_BSD, *(part.astype(jnp.float32) for part in (gate_BTD, weight_D, bias_D)))
    )
