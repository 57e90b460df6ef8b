"""Attention over lists of key blocks, backward: Pallas on Triton.

FlashAttention-2 (Dao, 2023, algorithm 2) in two kernels, so that every sum is one program's: dq walks a query block's
key blocks as the forward pass does; dk and dv walk a key block's query blocks, the selection transposed. Weights are
recomputed from the forward pass's log-sum-exp. No atomics: results are the same bit for bit from run to run.

Grids: (tiles of queries, heads, videos) and (tiles of keys, heads, videos). Numerics as in the forward pass; weights
and their gradients are rounded to the inputs' dtype for their products, sums are float32.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from lcv_jax.array_types import Array, Bool, Float
from lcv_jax.kernels import tiling
from lcv_jax.kernels.arithmetic import exp2_scaled
from lcv_jax.kernels.base_2 import LOG2_E, gradient_rows
from lcv_jax.kernels.block_select import Selection
from lcv_jax.kernels.block_transpose import transpose_selection
from lcv_jax.kernels.platform import has_large_shared_memory
from lcv_jax.kernels.tiling import Tiling


def _dq_kernel(
    lists,
    q_ref,
    k_ref,
    v_ref,
    key_mask_ref,
    do_ref,
    lse_ref,
    delta_ref,
    dq_ref,
    *,
    block_q,
    block_k,
    width,
    tiles,
    fast,
):
    query_block, query_start = tiling.block_and_tile(pl.program_id(0), block_q, tiles.tile_q)
    q_rows, q_valid = tiling.rows_of(query_block, query_start, block_q, tiles.tile_q)
    q_XK = tiling.load_tile(q_ref, q_rows, q_valid, width)
    do_XK = tiling.load_tile(do_ref, q_rows, q_valid, width)
    lse_X, delta_X = tiling.load_row(lse_ref, q_rows, q_valid), tiling.load_row(delta_ref, q_rows, q_valid)
    to_base_2 = LOG2_E / math.sqrt(width)

    def attend(key_block, key_start, dq_XK):
        k_rows, k_valid = tiling.rows_of(key_block, key_start, block_k, tiles.tile_k)
        k_YK = tiling.load_tile(k_ref, k_rows, k_valid, width)
        v_YK = tiling.load_tile(v_ref, k_rows, k_valid, width)
        if key_mask_ref is not None:
            k_valid = tiling.load_row(key_mask_ref, k_rows, k_valid)
        scores_XY = tiling.product(q_XK, k_YK, transpose=True)
        weights_XY = exp2_scaled(scores_XY, to_base_2, lse_X[:, None], fast=fast)
        if k_valid is not None:
            weights_XY = jnp.where(k_valid[None, :], weights_XY, 0.0)
        dlogits_XY = weights_XY * (tiling.product(do_XK, v_YK, transpose=True) - delta_X[:, None])
        return dq_XK + tiling.product(dlogits_XY.astype(k_YK.dtype), k_YK)

    nothing = jnp.zeros(q_XK.shape, jnp.float32)
    walk = functools.partial(tiling.walk, attend, nothing, block=block_k, tile=tiles.tile_k)
    if lists is None:
        dq_XK = walk(1)
    else:
        indices, counts = lists
        dq_XK = walk(counts[query_block], read=lambda place: indices[query_block, place], most=indices.shape[1] - 1)
    tiling.store_tile(dq_ref, q_rows, dq_XK / math.sqrt(width), q_valid, width)


def _dkdv_kernel(
    lists,
    q_ref,
    k_ref,
    v_ref,
    key_mask_ref,
    do_ref,
    lse_ref,
    delta_ref,
    dk_ref,
    dv_ref,
    *,
    block_q,
    block_k,
    width,
    tiles,
    fast,
):
    key_block, key_start = tiling.block_and_tile(pl.program_id(0), block_k, tiles.tile_k)
    k_rows, k_valid = tiling.rows_of(key_block, key_start, block_k, tiles.tile_k)
    k_YK = tiling.load_tile(k_ref, k_rows, k_valid, width)
    v_YK = tiling.load_tile(v_ref, k_rows, k_valid, width)
    to_base_2 = LOG2_E / math.sqrt(width)

    def attend(query_block, query_start, state):
        dk_YK, dv_YK = state
        q_rows, q_valid = tiling.rows_of(query_block, query_start, block_q, tiles.tile_q)
        q_XK = tiling.load_tile(q_ref, q_rows, q_valid, width)
        do_XK = tiling.load_tile(do_ref, q_rows, q_valid, width)
        lse_X, delta_X = tiling.load_row(lse_ref, q_rows, q_valid), tiling.load_row(delta_ref, q_rows, q_valid)
        scores_YX = tiling.product(k_YK, q_XK, transpose=True)
        weights_YX = exp2_scaled(scores_YX, to_base_2, lse_X[None, :], fast=fast)
        if q_valid is not None:
            weights_YX = jnp.where(q_valid[None, :], weights_YX, 0.0)
        dv_YK = dv_YK + tiling.product(weights_YX.astype(do_XK.dtype), do_XK)
        dlogits_YX = weights_YX * (tiling.product(v_YK, do_XK, transpose=True) - delta_X[None, :])
        return dk_YK + tiling.product(dlogits_YX.astype(q_XK.dtype), q_XK), dv_YK

    nothing = jnp.zeros(k_YK.shape, jnp.float32)
    walk = functools.partial(tiling.walk, attend, (nothing, nothing), block=block_q, tile=tiles.tile_q)
    if lists is None:
        dk_YK, dv_YK = walk(1)
    else:
        indices, starts = lists
        first = starts[key_block]
        dk_YK, dv_YK = walk(
            starts[key_block + 1] - first,
            read=lambda place: indices[first + place],
            most=indices.shape[0] - 1 - first,
        )
    if key_mask_ref is not None:
        allowed_Y1 = tiling.load_row(key_mask_ref, k_rows, k_valid)[:, None]
        dk_YK, dv_YK = jnp.where(allowed_Y1, dk_YK, 0.0), jnp.where(allowed_Y1, dv_YK, 0.0)
    tiling.store_tile(dk_ref, k_rows, dk_YK / math.sqrt(width), k_valid, width)
    tiling.store_tile(dv_ref, k_rows, dv_YK, k_valid, width)


def default_tilings(block_q: int, block_k: int, width: int, dtype: jnp.dtype) -> tuple[Tiling, Tiling]:
    """For dq and for dk and dv: what compiles without spilling on an H100 or H200, or fits a smaller GPU."""
    narrow = jnp.dtype(dtype).itemsize == 2
    if width > 128 and not has_large_shared_memory():
        side = 32 if narrow else 16
        tiles = Tiling(tiling.own_tile(block_q, side), tiling.step_tile(block_k, side), num_warps=4, num_stages=1)
        return tiles, tiles
    if not narrow:
        tiles = Tiling(tiling.own_tile(block_q, 32), tiling.own_tile(block_k, 32), num_warps=8, num_stages=2)
        return tiles, tiles
    step_q, step_k = tiling.step_tile(block_q, 64), tiling.step_tile(block_k, 64)
    if width > 128:
        own_q, own_k, step_q = tiling.own_tile(block_q, 64), tiling.own_tile(block_k, 64), min(step_q, 32)
        return Tiling(own_q, step_k, num_warps=8, num_stages=2), Tiling(step_q, own_k, num_warps=8, num_stages=2)
    most = 128 if has_large_shared_memory() else 64
    own_q, own_k = tiling.own_tile(block_q, most), tiling.own_tile(block_k, most)

    def step(own: int, walked: int) -> tuple[int, int]:
        """The step's tile and the warps: with small steps two programs fit a multiprocessor that load ahead."""
        return (tiling.step_tile(walked, 64), 8) if own > 64 else (tiling.step_tile(walked, 32), 4)

    (step_k, dq_warps), (step_q, dkdv_warps) = step(own_q, block_k), step(own_k, block_q)
    return Tiling(own_q, step_k, dq_warps, num_stages=3), Tiling(step_q, own_k, dkdv_warps, num_stages=3)


def backward(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    selection: Selection | None,
    out_BSNK: Float[Array, "B S N K"],
    lse_BNS: Float[Array, "B N S"],
    d_out_BSNK: Float[Array, "B S N K"],
    d_lse_BNS: Float[Array, "B N S"] | None,
    block_q: int,
    block_k: int,
    *,
    key_mask_BM: Bool[Array, "B M"] | None = None,
    tiles: tuple[Tiling, Tiling] | None = None,
    interpret: bool = False,
) -> tuple[Float[Array, "B S N K"], Float[Array, "B M N K"], Float[Array, "B M N K"]]:
    """Gradients of queries, keys and values.

    Args:
        selection: as the forward pass had it; None is dense attention.
        out_BSNK, lse_BNS: what the forward pass gave. Those of more keys than are here make this their share of the
            gradient, which is how a ring adds up.
        d_out_BSNK, d_lse_BNS: gradients of the two; None is zero.
        tiles: of the two kernels; None takes `default_tilings`.
        interpret: run in Pallas' interpreter, on any device.
    """
    B, S, N, K = q_BSNK.shape
    M = k_BMNK.shape[1]
    fast = not interpret and q_BSNK.dtype.itemsize == 2
    dq_tiles, dkdv_tiles = tiles or default_tilings(block_q, block_k, K, q_BSNK.dtype)
    base_2_BNS, delta_BNS = gradient_rows(out_BSNK, lse_BNS, d_out_BSNK, d_lse_BNS)
    arrays = (q_BSNK, k_BMNK, v_BMNK, key_mask_BM, d_out_BSNK, base_2_BNS, delta_BNS)

    def call(kernel, name: str, lists, list_specs, num_tiles: int, tiles: Tiling):
        rows_q, rows_k = S + -block_q % tiles.tile_q, M + -block_k % tiles.tile_k
        q, k = tiling.tokens_of_a_head(q_BSNK, rows_q), tiling.tokens_of_a_head(k_BMNK, rows_k)
        row, mask = tiling.numbers_of_a_head(rows_q), None if key_mask_BM is None else tiling.keys_of_a_video(rows_k)
        outputs = {"dq": ((q, q_BSNK),), "dkdv": ((k, k_BMNK), (k, v_BMNK))}[name]
        return pl.pallas_call(
            functools.partial(kernel, block_q=block_q, block_k=block_k, width=K, tiles=tiles, fast=fast),
            name=f"{'dense' if selection is None else 'block_sparse'}_{name}",
            grid=(num_tiles, N, B),
            in_specs=(list_specs, q, k, k, mask, q, row, row),
            out_specs=tuple(spec for spec, _ in outputs),
            out_shape=tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for _, x in outputs),
            compiler_params=plt.CompilerParams(num_warps=tiles.num_warps, num_stages=tiles.num_stages),
            interpret=interpret,
        )(lists, *arrays)

    by_query = by_key = query_specs = key_specs = None
    if selection is not None:
        by_query, query_specs = tuple(selection), tiling.lists_of_a_head(selection)
        by_key = tuple(transpose_selection(selection, M // block_k))
        key_specs = (
            pl.BlockSpec(by_key[0].shape, lambda _, n, b: (0,)),
            tiling.numbers_of_a_head(by_key[1].shape[-1]),
        )
    q_tiles = S // block_q * pl.cdiv(block_q, dq_tiles.tile_q)
    k_tiles = M // block_k * pl.cdiv(block_k, dkdv_tiles.tile_k)
    (dq,) = call(_dq_kernel, "dq", by_query, query_specs, q_tiles, dq_tiles)
    dk, dv = call(_dkdv_kernel, "dkdv", by_key, key_specs, k_tiles, dkdv_tiles)
    return dq, dk, dv
