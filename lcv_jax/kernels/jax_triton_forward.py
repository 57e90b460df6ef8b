"""Block-sparse attention forward by jax-triton: what stays if Pallas drops its Triton backend.

Algorithm, grid and numerics are those of kernels/flash_forward.py; the kernel is kernels/jax_triton_kernel.py. This
file picks its tiles and calls it. Blocks of 16 to 1024 tokens, heads 32 to 256 wide, bfloat16, float16 and float32.
There is no gradient here, and jax-triton has no rule for `jax.vmap`: a batch is the B of the arrays.

Needs a GPU and `pip install "lcv_jax[jax-triton]"`. jax-triton 0.3 (Python 3.11) and 0.4 differ in their call.
"""

import inspect
import math

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Float
from lcv_jax.kernels.block_select import Selection

MIN_TILE = 16
"""Smallest side of a matrix product in Triton."""


def forward(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    selection: Selection,
    block_q: int,
    block_k: int,
    *,
    compute_capability: int | None = None,
) -> tuple[Float[Array, "B S N K"], Float[Array, "B N S"]]:
    """Attention of every query block to its key blocks, and the log-sum-exp of its scores.

    Args:
        compute_capability: None asks the first GPU; 90 compiles for an H100 or H200 that need not be there.

    Raises:
        NotImplementedError: jax-triton, Triton or JAX for GPUs is not installed.
    """
    try:
        import jax_triton

        from lcv_jax.kernels import jax_triton_kernel
    except ImportError as error:
        raise NotImplementedError(
            "attention implementation 'jax_triton': pip install \"lcv_jax[gpu,jax-triton]\" "
            f"({str(error).splitlines()[0]})"
        ) from error
    B, S, N, K = q_BSNK.shape
    num_queries, room = selection.indices_BNIR.shape[2:]
    tile_q, tile_k, num_warps = tiles(block_q, block_k, K, q_BSNK.dtype)
    # Three stages have two tiles of keys and values under way; where shared memory is small, they do not fit.
    has_room = num_warps == 4 and (compute_capability or 0) // 10 in (9, 10)
    out_types = (jax.ShapeDtypeStruct(q_BSNK.shape, q_BSNK.dtype), jax.ShapeDtypeStruct((B, N, S), jnp.float32))
    return jax_triton.triton_call(
        q_BSNK,
        k_BMNK,
        v_BMNK,
        selection.indices_BNIR.astype(jnp.int32),
        selection.counts_BNI.astype(jnp.int32),
        kernel=jax_triton_kernel.block_sparse_forward,
        name="block_sparse_forward",
        grid=(num_queries * math.ceil(block_q / tile_q), N, B),
        num_warps=num_warps,
        num_stages=3 if has_room else 2,
        compute_capability=compute_capability,
        # jax-triton 0.3 calls it out_shape; to 0.4 any name that it does not know is a constant of the kernel.
        **{_name_of_outputs(jax_triton.triton_call): out_types},
        NUM_QUERIES=num_queries,
        NUM_KEYS=k_BMNK.shape[1] // block_k,
        HEADS=N,
        WIDTH=K,
        ROOM=room,
        BLOCK_Q=block_q,
        BLOCK_K=block_k,
        TILE_Q=tile_q,
        TILE_K=tile_k,
        TILE_WIDTH=_power_of_two(K),
        TO_BASE_2=math.log2(math.e) / math.sqrt(K),
        FROM_BASE_2=math.log(2),
    )


def tiles(block_q: int, block_k: int, width: int, dtype: jnp.dtype) -> tuple[int, int, int]:
    """Rows of queries and of keys that a program multiplies at once, and its warps; none of these spills on Hopper."""
    if jnp.dtype(dtype).itemsize == 4:
        return min(32, _power_of_two(block_q)), min(32, _power_of_two(block_k)), 8
    return min(64, _power_of_two(block_q)), min(64, _power_of_two(block_k)), 4 if width <= 128 else 8


def _power_of_two(size: int) -> int:
    return max(MIN_TILE, 1 << (size - 1).bit_length())


def _name_of_outputs(triton_call) -> str:
    return "out_type" if "out_type" in inspect.signature(triton_call).parameters else "out_shape"
