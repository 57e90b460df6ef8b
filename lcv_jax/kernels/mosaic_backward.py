"""Attention over lists of key blocks, backward: Pallas on Mosaic GPU, for Hopper.

The two kernels of kernels/flash_backward.py on the schedule of kernels/mosaic_ring.py: dq keeps queries and walks keys,
with the forward pass's lists; dk and dv keep keys and walk queries, with transposed scores, so that weights are left
factors, which may be in registers. No atomics: the same bits from run to run.

Grids: (videos, heads, pairs of 64 queries or keys). Numerics are those of kernels/flash_backward.py. Accepted: what
kernels/mosaic_forward.py accepts, and key blocks of 64 or of a multiple of 128.
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
from lcv_jax.kernels.base_2 import LOG2_E, gradient_rows
from lcv_jax.kernels.block_select import Selection
from lcv_jax.kernels.mosaic_lists import pair_lists
from lcv_jax.kernels.mosaic_ring import CONSUMERS, ROWS, SLOTS, Slots, Tile

REGISTERS = {"consumer": 240, "producer": 24}
"""Of a thread; a program of three warpgroups has 65,536."""


def _add_dq(own: tuple, interpret: bool, k: Tile, v: Tile, dq_XK: Array) -> Array:
    """Adds a tile of keys and values."""
    q_ref, do_ref, base_2_X, delta_X = own
    product = functools.partial(mosaic_tiles.product, interpret=interpret)
    (k_ref,) = k.wait()
    scores_XY = product(q_ref, k_ref)
    (v_ref,) = v.wait()
    dweights_XY = product(do_ref, v_ref)
    v.release()
    spread = functools.partial(mosaic_tiles.spread, shape=scores_XY.shape)
    weights_XY = jnp.exp2(scores_XY * (LOG2_E / math.sqrt(q_ref.shape[1])) - spread(base_2_X))
    dlogits_XY = weights_XY * (dweights_XY - spread(delta_X))
    dq_XK = mosaic_tiles.add_product(dq_XK, dlogits_XY, k_ref, interpret=interpret)
    k.release()
    return dq_XK


def _add_dkdv(own: tuple, interpret: bool, q: Tile, do: Tile, state: tuple[Array, Array]) -> tuple[Array, Array]:
    """Adds a tile of queries and their output's gradient."""
    dk_YK, dv_YK = state
    k_ref, v_ref = own
    product, add_product, columns = (
        functools.partial(function, interpret=interpret)
        for function in (mosaic_tiles.product, mosaic_tiles.add_product, mosaic_tiles.row_numbers)
    )
    q_ref, base_2_ref = q.wait()
    scores_YX = product(k_ref, q_ref)
    spread = functools.partial(mosaic_tiles.spread, shape=scores_YX.shape, axis=1)
    scores_YX = scores_YX * (LOG2_E / math.sqrt(k_ref.shape[1]))
    weights_YX = jnp.exp2(scores_YX - spread(columns(base_2_ref, axis=1)))
    do_ref, delta_ref = do.wait()
    dv_YK = add_product(dv_YK, weights_YX, do_ref)
    dlogits_YX = weights_YX * (product(v_ref, do_ref) - spread(columns(delta_ref, axis=1)))
    # The numbers were read by threads: a fence before TMA may write there.
    plgpu.commit_smem()
    do.release()
    dk_YK = add_product(dk_YK, dlogits_YX, q_ref)
    q.release()
    return dk_YK, dv_YK


def _store(here: mosaic_ring.Program, results: tuple) -> None:
    """Writes tiles out through shared memory.

    Args:
        results: of each the tile, the shared memory, and where it goes.
    """
    for x, ref, _ in results:
        ref[...] = x.astype(ref.dtype)
    plgpu.commit_smem()
    for _, ref, target in results:
        plgpu.copy_smem_to_gmem(ref, here.tokens(target, here.own_row()))
    plgpu.wait_smem_to_gmem(0)


def _dq_kernel(
    blocks_ref,
    starts_ref,
    q_ref,
    k_ref,
    v_ref,
    do_ref,
    base_2_ref,
    delta_ref,
    dq_ref,
    *,
    own_q: Any,
    own_do: Any,
    own_base_2: Any,
    own_delta: Any,
    own_full: Any,
    k_slots: Slots,
    v_slots: Slots,
    block_q: int,
    block_k: int,
    interpret: bool,
):
    here = mosaic_ring.program()
    walk = mosaic_ring.walk_of(here, blocks_ref, starts_ref, block_q, block_k)

    def consumer() -> None:
        q, do, base_2, delta = (ref.at[here.warpgroup] for ref in (own_q, own_do, own_base_2, own_delta))
        mosaic_ring.load_own(
            here,
            own_full.at[here.warpgroup],
            (here.tokens, q_ref, q),
            (here.tokens, do_ref, do),
            (here.numbers, base_2_ref, base_2),
            (here.numbers, delta_ref, delta),
        )
        rows = (mosaic_tiles.row_numbers(ref, axis=0, interpret=interpret) for ref in (base_2, delta))
        step = functools.partial(_add_dq, (q, do, *rows), interpret)
        nothing = mosaic_tiles.filled(q.shape, 0.0, interpret=interpret)
        dq_XK = mosaic_ring.consume(walk, (k_slots, v_slots), here.warpgroup, step, nothing)
        _store(here, ((dq_XK * (1 / math.sqrt(q_ref.shape[-1])), q, dq_ref),))

    sources = [[functools.partial(here.tokens, ref)] for ref in (k_ref, v_ref)]
    producer = functools.partial(mosaic_ring.produce, walk, (k_slots, v_slots), sources)
    mosaic_ring.run(here, q_ref.shape[1], REGISTERS, consumer, producer)


def _dkdv_kernel(
    blocks_ref,
    starts_ref,
    q_ref,
    k_ref,
    v_ref,
    do_ref,
    base_2_ref,
    delta_ref,
    dk_ref,
    dv_ref,
    *,
    own_k: Any,
    own_v: Any,
    own_full: Any,
    q_slots: Slots,
    do_slots: Slots,
    block_q: int,
    block_k: int,
    interpret: bool,
):
    here = mosaic_ring.program()
    walk = mosaic_ring.walk_of(here, blocks_ref, starts_ref, block_k, block_q)

    def consumer() -> None:
        k_tile, v_tile, full = (ref.at[here.warpgroup] for ref in (own_k, own_v, own_full))
        mosaic_ring.load_own(here, full, (here.tokens, k_ref, k_tile), (here.tokens, v_ref, v_tile))
        step = functools.partial(_add_dkdv, (k_tile, v_tile), interpret)
        nothing = mosaic_tiles.filled(k_tile.shape, 0.0, interpret=interpret)
        arrays = q_slots, do_slots
        dk_YK, dv_YK = mosaic_ring.consume(walk, arrays, here.warpgroup, step, (nothing, nothing))
        dk_YK = dk_YK * (1 / math.sqrt(q_ref.shape[-1]))
        _store(here, ((dk_YK, k_tile, dk_ref), (dv_YK, v_tile, dv_ref)))

    sources = [
        [functools.partial(here.tokens, tokens_ref), functools.partial(here.numbers, numbers_ref)]
        for tokens_ref, numbers_ref in ((q_ref, base_2_ref), (do_ref, delta_ref))
    ]
    producer = functools.partial(mosaic_ring.produce, walk, (q_slots, do_slots), sources)
    mosaic_ring.run(here, k_ref.shape[1], REGISTERS, consumer, producer)


def backward(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    selection: Selection,
    out_BSNK: Float[Array, "B S N K"],
    lse_BNS: Float[Array, "B N S"],
    d_out_BSNK: Float[Array, "B S N K"],
    d_lse_BNS: Float[Array, "B N S"] | None,
    block_q: int,
    block_k: int,
    *,
    interpret: Any = None,
) -> tuple[Float[Array, "B S N K"], Float[Array, "B M N K"], Float[Array, "B M N K"]]:
    """Gradients of queries, keys and values; arguments as of `flash_backward.backward`.

    Args:
        interpret: parameters of Pallas' Mosaic GPU interpreter, which runs anywhere.
    """
    B, S, N, K = q_BSNK.shape
    M = k_BMNK.shape[1]
    base_2_BNS, delta_BNS = gradient_rows(out_BSNK, lse_BNS, d_out_BSNK, d_lse_BNS)
    arrays = q_BSNK, k_BMNK, v_BMNK, d_out_BSNK, base_2_BNS, delta_BNS
    own = mosaic_tiles.memory((CONSUMERS, ROWS, K), q_BSNK.dtype)
    walked = mosaic_tiles.memory((SLOTS, ROWS, K), q_BSNK.dtype)
    own_row, walked_rows = (plgpu.SMEM((count, ROWS), jnp.float32) for count in (CONSUMERS, SLOTS))

    def call(kernel: Any, name: str, outputs: tuple, by_key: bool, rows: int, scratch: dict) -> Any:
        merge = (block_k if by_key else block_q) == ROWS
        return mosaic_ring.launch(
            functools.partial(kernel, block_q=block_q, block_k=block_k, interpret=interpret is not None),
            (*pair_lists(selection, M // block_k, by_key=by_key, merge=merge), *arrays),
            name=name,
            outputs=tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in outputs),
            scratch=scratch,
            grid=(B, N, pl.cdiv(rows, CONSUMERS * ROWS)),
            interpret=interpret,
        )

    dq_scratch = {
        "own_q": own,
        "own_do": own,
        "own_base_2": own_row,
        "own_delta": own_row,
        "own_full": plgpu.Barrier(num_barriers=CONSUMERS, num_arrivals=4),
        "k_slots": mosaic_ring.slots(walked),
        "v_slots": mosaic_ring.slots(walked),
    }
    dkdv_scratch = {
        "own_k": own,
        "own_v": own,
        "own_full": plgpu.Barrier(num_barriers=CONSUMERS, num_arrivals=2),
        "q_slots": mosaic_ring.slots(walked, walked_rows),
        "do_slots": mosaic_ring.slots(walked, walked_rows),
    }
    (dq,) = call(_dq_kernel, "mosaic_dq", (q_BSNK,), False, S, dq_scratch)
    dk, dv = call(_dkdv_kernel, "mosaic_dkdv", (k_BMNK, v_BMNK), True, M, dkdv_scratch)
    return dq, dk, dv
