"""Attention over lists of key blocks, forward: Pallas on Mosaic GPU, for Hopper.

FlashAttention-2 as in kernels/flash_forward.py, with FlashAttention-3's division of work (Shah et al., 2024): one
warpgroup loads, two compute (kernels/mosaic_ring.py). Each of the two keeps 64 queries, their float32 sum of values,
and per row the maximum and the sum of weights. Of blocks of 64 queries the two are neighbours, and a key block that
both select is loaded once (kernels/mosaic_lists.py); larger blocks are pairs of 64 queries that walk the same list.

Grid: (videos, heads, pairs of 64 queries). Numerics are those of kernels/flash_forward.py. Accepted: bfloat16 and
float16, heads 64 or 128 wide, blocks of 64 or of a multiple of 128 queries, and of a multiple of 64 keys.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from lcv_jax.array_types import Array, Float
from lcv_jax.kernels import mosaic_ring, mosaic_tiles
from lcv_jax.kernels.base_2 import LOG2_E
from lcv_jax.kernels.block_select import Selection
from lcv_jax.kernels.mosaic_lists import pair_lists
from lcv_jax.kernels.mosaic_ring import CONSUMERS, ROWS, SLOTS, Slots, Tile

REGISTERS = {"consumer": 232, "producer": 40}
"""Of a thread; a program of three warpgroups has 65,536."""


def _attend(q_ref: Any, interpret: bool, k: Tile, v: Tile, state: tuple[Array, Array, Array]) -> tuple:
    """Adds a tile of keys and values."""
    sum_XK, top_X, total_X = state
    to_base_2 = LOG2_E / math.sqrt(q_ref.shape[1])
    (k_ref,) = k.wait()
    scores_XY = mosaic_tiles.product(q_ref, k_ref, interpret=interpret)
    k.release()
    new_top_X = jnp.maximum(top_X, jnp.max(scores_XY, axis=1) * to_base_2)
    keep_X = jnp.exp2(top_X - new_top_X)
    weights_XY = jnp.exp2(scores_XY * to_base_2 - mosaic_tiles.spread(new_top_X, scores_XY.shape))
    total_X = total_X * keep_X + jnp.sum(weights_XY, axis=1)
    sum_XK = sum_XK * mosaic_tiles.spread(keep_X, sum_XK.shape)
    (v_ref,) = v.wait()
    sum_XK = mosaic_tiles.add_product(sum_XK, weights_XY, v_ref, interpret=interpret)
    v.release()
    return sum_XK, new_top_X, total_X


def _kernel(
    blocks_ref,
    starts_ref,
    q_ref,
    k_ref,
    v_ref,
    out_ref,
    lse_ref,
    *,
    own_q: Any,
    own_lse: Any,
    q_full: Any,
    k_slots: Slots,
    v_slots: Slots,
    block_q: int,
    block_k: int,
    interpret: bool,
):
    here = mosaic_ring.program()
    walk = mosaic_ring.walk_of(here, blocks_ref, starts_ref, block_q, block_k)

    def consumer() -> None:
        q_tile, lse_row, full = (ref.at[here.warpgroup] for ref in (own_q, own_lse, q_full))
        mosaic_ring.load_own(here, full, (here.tokens, q_ref, q_tile))
        filled = functools.partial(mosaic_tiles.filled, interpret=interpret)
        nothing = filled(q_tile.shape, 0.0), filled((ROWS,), -math.inf), filled((ROWS,), 0.0)
        step = functools.partial(_attend, q_tile, interpret)
        sum_XK, top_X, total_X = mosaic_ring.consume(walk, (k_slots, v_slots), here.warpgroup, step, nothing)
        total_X = jnp.where(total_X == 0.0, 1.0, total_X)
        q_tile[...] = (sum_XK * mosaic_tiles.spread(1 / total_X, sum_XK.shape)).astype(q_tile.dtype)
        lse_row[...] = (top_X + jnp.log2(total_X)) * (1 / LOG2_E)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q_tile, here.tokens(out_ref, here.own_row()))
        plgpu.copy_smem_to_gmem(lse_row, here.numbers(lse_ref, here.own_row()))
        plgpu.wait_smem_to_gmem(0)

    sources = [[functools.partial(here.tokens, ref)] for ref in (k_ref, v_ref)]
    producer = functools.partial(mosaic_ring.produce, walk, (k_slots, v_slots), sources)
    mosaic_ring.run(here, q_ref.shape[1], REGISTERS, consumer, producer)


def forward(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    selection: Selection,
    block_q: int,
    block_k: int,
    *,
    interpret: Any = None,
) -> tuple[Float[Array, "B S N K"], Float[Array, "B N S"]]:
    """Attention of every query block to its key blocks, and the log-sum-exp of its scores.

    Args:
        interpret: parameters of Pallas' Mosaic GPU interpreter, which runs anywhere.
    """
    B, S, N, K = q_BSNK.shape
    dtype = q_BSNK.dtype
    lists = pair_lists(selection, k_BMNK.shape[1] // block_k, by_key=False, merge=block_q == ROWS)
    slots = mosaic_ring.slots(mosaic_tiles.memory((SLOTS, ROWS, K), dtype))
    out, lse = mosaic_ring.launch(
        functools.partial(_kernel, block_q=block_q, block_k=block_k, interpret=interpret is not None),
        (*lists, q_BSNK, k_BMNK, v_BMNK),
        name="mosaic_forward",
        outputs=(jax.ShapeDtypeStruct(q_BSNK.shape, dtype), jax.ShapeDtypeStruct((B, N, S), jnp.float32)),
        scratch={
            "own_q": mosaic_tiles.memory((CONSUMERS, ROWS, K), dtype),
            "own_lse": plgpu.SMEM((CONSUMERS, ROWS), jnp.float32),
            "q_full": plgpu.Barrier(num_barriers=CONSUMERS),
            "k_slots": slots,
            "v_slots": slots,
        },
        grid=(B, N, pl.cdiv(S, CONSUMERS * ROWS)),
        interpret=interpret,
    )
    return out, lse
