"""Attention over lists of key blocks, forward: Pallas on Triton.

FlashAttention-2 (Dao, 2023, algorithm 1) that walks a list of key blocks instead of all keys (report section 3.4 and
appendix A.2). Dense attention is the case of one query block and one key block, however long.

Grid: (tiles of queries, heads, videos), tiles fastest, so that programs that run together share a head's keys and
values in the L2 cache. A program keeps one tile of queries, its float32 sum of values, and per row the maximum and the
sum of weights; tiles of keys and values stream through shared memory. Rows are read where they lie in B S N K.

Numerics: scores, softmax and sums are float32; scores are scaled in float32 after the product, for a scale folded into
bfloat16 queries costs accuracy; weights are rounded to the values' dtype for their product. A row without keys gives
zero and a log-sum-exp of -inf.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from lcv_jax.array_types import Array, Bool, Float
from lcv_jax.kernels import tiling
from lcv_jax.kernels.arithmetic import exp2, exp2_scaled
from lcv_jax.kernels.base_2 import LOG2_E
from lcv_jax.kernels.block_select import Selection
from lcv_jax.kernels.platform import has_large_shared_memory
from lcv_jax.kernels.tiling import Tiling


def _kernel(
    lists, q_ref, k_ref, v_ref, key_mask_ref, out_ref, lse_ref, *, block_q, block_k, width, tiles: Tiling, fast: bool
):
    query_block, query_start = tiling.block_and_tile(pl.program_id(0), block_q, tiles.tile_q)
    q_rows, q_valid = tiling.rows_of(query_block, query_start, block_q, tiles.tile_q)
    q_XK = tiling.load_tile(q_ref, q_rows, q_valid, width)
    to_base_2 = LOG2_E / math.sqrt(width)

    def attend(key_block, key_start, state):
        sum_XK, top_X, total_X = state
        k_rows, k_valid = tiling.rows_of(key_block, key_start, block_k, tiles.tile_k)
        k_YK = tiling.load_tile(k_ref, k_rows, k_valid, width)
        v_YK = tiling.load_tile(v_ref, k_rows, k_valid, width)
        scores_XY = tiling.product(q_XK, k_YK, transpose=True)
        if key_mask_ref is not None:
            k_valid = tiling.load_row(key_mask_ref, k_rows, k_valid)
        if k_valid is not None:
            scores_XY = jnp.where(k_valid[None, :], scores_XY, -jnp.inf)
        new_top_X = jnp.maximum(top_X, jnp.max(scores_XY, axis=1) * to_base_2)
        # A row that has seen no key yet: -inf - -inf is NaN, -inf - 0 is a weight of zero.
        base_X = jnp.where(new_top_X == -jnp.inf, 0.0, new_top_X)
        weights_XY = exp2_scaled(scores_XY, to_base_2, base_X[:, None], fast=fast)
        keep_X = exp2(top_X - base_X, fast=fast)
        sum_XK = sum_XK * keep_X[:, None] + tiling.product(weights_XY.astype(v_YK.dtype), v_YK)
        return sum_XK, new_top_X, total_X * keep_X + jnp.sum(weights_XY, axis=1)

    nothing = (jnp.zeros(q_XK.shape, jnp.float32), jnp.full(tiles.tile_q, -jnp.inf), jnp.zeros(tiles.tile_q))
    walk = functools.partial(tiling.walk, attend, nothing, block=block_k, tile=tiles.tile_k)
    if lists is None:
        sum_XK, top_X, total_X = walk(1)
    else:
        indices, counts = lists
        sum_XK, top_X, total_X = walk(
            counts[query_block], read=lambda place: indices[query_block, place], most=indices.shape[1] - 1
        )
    total_X = jnp.where(top_X == -jnp.inf, 1.0, total_X)
    tiling.store_tile(out_ref, q_rows, sum_XK / total_X[:, None], q_valid, width)
    plt.store(lse_ref.at[q_rows], (top_X + jnp.log2(total_X)) / LOG2_E, mask=q_valid)


def default_tiling(block_q: int, block_k: int, width: int, dtype: jnp.dtype) -> Tiling:
    """What compiles without spilling and fills an H100 or H200 (docs/kernels.md), or fits a smaller GPU."""
    if jnp.dtype(dtype).itemsize == 4 and width > 128 and not has_large_shared_memory():
        return Tiling(tiling.own_tile(block_q, 16), tiling.step_tile(block_k, 16), num_warps=4, num_stages=1)
    if jnp.dtype(dtype).itemsize == 4:
        return Tiling(tiling.own_tile(block_q, 32), tiling.step_tile(block_k, 32), num_warps=8, num_stages=2)
    tile_q = tiling.own_tile(block_q, 128 if width <= 128 or has_large_shared_memory() else 64)
    if width > 128:
        step = 64 if has_large_shared_memory() else 32
        return Tiling(tile_q, tiling.step_tile(block_k, step), num_warps=8, num_stages=2)
    if tile_q <= 64:
        # Two programs a multiprocessor, each with two tiles under way; with less shared memory smaller ones.
        step = 64 if width <= 64 or has_large_shared_memory() else 32
        return Tiling(tile_q, tiling.step_tile(block_k, step), num_warps=4, num_stages=3)
    if has_large_shared_memory():
        return Tiling(tile_q, tiling.step_tile(block_k, 128), num_warps=8, num_stages=3)
    return Tiling(tile_q, tiling.step_tile(block_k, 64), num_warps=8, num_stages=2)


def forward(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    selection: Selection | None,
    block_q: int,
    block_k: int,
    *,
    key_mask_BM: Bool[Array, "B M"] | None = None,
    tiles: Tiling | None = None,
    interpret: bool = False,
) -> tuple[Float[Array, "B S N K"], Float[Array, "B N S"]]:
    """Attention of every query block to its key blocks, and the log-sum-exp of its scores.

    Args:
        selection: None is all of one key block, that is dense attention.
        tiles: None takes `default_tiling`.
        interpret: run in Pallas' interpreter, on any device.
    """
    B, S, N, K = q_BSNK.shape
    tiles = tiles or default_tiling(block_q, block_k, K, q_BSNK.dtype)
    fast = not interpret and q_BSNK.dtype.itemsize == 2
    num_tiles = S // block_q * pl.cdiv(block_q, tiles.tile_q)
    # A block's last tile may reach past the end, where it is masked.
    rows_q, rows_k = S + -block_q % tiles.tile_q, k_BMNK.shape[1] + -block_k % tiles.tile_k
    return pl.pallas_call(
        functools.partial(_kernel, block_q=block_q, block_k=block_k, width=K, tiles=tiles, fast=fast),
        name="dense_forward" if selection is None else "block_sparse_forward",
        grid=(num_tiles, N, B),
        in_specs=(
            None if selection is None else tiling.lists_of_a_head(selection),
            tiling.tokens_of_a_head(q_BSNK, rows_q),
            tiling.tokens_of_a_head(k_BMNK, rows_k),
            tiling.tokens_of_a_head(v_BMNK, rows_k),
            None if key_mask_BM is None else tiling.keys_of_a_video(rows_k),
        ),
        out_specs=(tiling.tokens_of_a_head(q_BSNK, rows_q), tiling.numbers_of_a_head(rows_q)),
        out_shape=(
            jax.ShapeDtypeStruct(q_BSNK.shape, q_BSNK.dtype),
            jax.ShapeDtypeStruct((B, N, S), jnp.float32),
        ),
        compiler_params=plt.CompilerParams(num_warps=tiles.num_warps, num_stages=tiles.num_stages),
        interpret=interpret,
    )(None if selection is None else tuple(selection), q_BSNK, k_BMNK, v_BMNK, key_mask_BM)
