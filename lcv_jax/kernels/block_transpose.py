"""A selection the other way round: for every key block the query blocks that attend to it.

The backward pass adds up dk and dv over these lists, one program a key block: no atomics, and the same sum every time.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Int
from lcv_jax.kernels.block_select import Selection, largest_divisor

LAST = jnp.iinfo(jnp.int32).max


class Transposed(NamedTuple):
    """Lists of query blocks, one behind the other: as long together as the selection, however unequal they are."""

    queries_E: Int[Array, "E"]
    """Query blocks by video, head and key block, ascending within a key block's list."""
    starts_BNj: Int[Array, "B N j"]
    """Where each key block's list starts, and one more, where the last one ends."""


def transpose_selection(selection: Selection, num_keys: int) -> Transposed:
    """Sorts the selected pairs by key block.

    Args:
        num_keys: J, the number of key blocks.
    """
    B, N, num_queries, R = selection.indices_BNIR.shape
    # A pair is one integer, (head, key block, query block) from high to low, in as few sorts as 32 bits allow.
    if num_queries * num_keys > LAST:
        raise ValueError(f"block-sparse gradient: {num_queries} x {num_keys} pairs of blocks; take larger blocks")
    heads = largest_divisor(B * N, LAST // (num_queries * num_keys))
    indices_GhIR = selection.indices_BNIR.reshape(-1, heads, num_queries, R)
    head_h = jnp.arange(heads, dtype=jnp.int32)
    query_I1 = jnp.arange(num_queries, dtype=jnp.int32)[:, None]
    pairs = (head_h[:, None, None] * num_keys + indices_GhIR) * num_queries + query_I1
    counted = jnp.arange(R, dtype=jnp.int32) < selection.counts_BNI.reshape(-1, heads, num_queries, 1)
    pairs_GE = jnp.sort(jnp.where(counted, pairs, LAST).reshape(-1, heads * num_queries * R), axis=-1)

    first_hj = (head_h[:, None] * num_keys + jnp.arange(num_keys + 1, dtype=jnp.int32)) * num_queries
    starts_Ghj = jax.vmap(lambda pairs_E: jnp.searchsorted(pairs_E, first_hj).astype(jnp.int32))(pairs_GE)
    group_start = jnp.arange(pairs_GE.shape[0], dtype=jnp.int32) * pairs_GE.shape[1]
    return Transposed(
        jax.lax.rem(pairs_GE, num_queries).reshape(-1),
        (starts_Ghj + group_start[:, None, None]).reshape(B, N, num_keys + 1),
    )
