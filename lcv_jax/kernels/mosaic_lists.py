"""Lists for two neighbouring blocks at a time: what both walk first, then what only one of them does.

A program of the Mosaic GPU kernels has two consumers, one for each block of a pair. A block that both walk is loaded
once for both. The forward pass and dq pair query blocks that walk key blocks; dk and dv pair key blocks that walk query
blocks. What it takes is two sorts of the selected pairs (kernels/block_transpose.py takes one).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Int
from lcv_jax.kernels.block_select import Selection, largest_divisor

LAST = jnp.iinfo(jnp.int32).max
SHARED, FIRST, SECOND = range(3)
"""The lists of a pair, in this order: of both its blocks, of its first and of its second alone."""


class PairedLists(NamedTuple):
    """Lists of the blocks to walk, one behind the other, three for each pair."""

    blocks_E: Int[Array, "E"]
    """By video, head, pair and list, ascending within a list; what is behind the last list is filler."""
    starts_BNj: Int[Array, "B N j"]
    """Where the three lists of each pair start, and one more, where the last one ends."""

    @property
    def num_pairs(self) -> int:
        """Pairs of a head."""
        return self.starts_BNj.shape[-1] // 3


def pair_lists(selection: Selection, num_keys: int, *, by_key: bool, merge: bool) -> PairedLists:
    """The lists of neighbouring query blocks, or of neighbouring key blocks.

    Args:
        num_keys: J, the number of key blocks.
        by_key: pairs are of key blocks, which walk query blocks.
        merge: a pair is two neighbouring blocks, or the last one alone; if not, it is the two halves of one block.

    Raises:
        ValueError: more pairs of blocks than 32 bits count.
    """
    B, N, num_queries, R = selection.indices_BNIR.shape
    keys_GhIR = selection.indices_BNIR
    owners, walked = (num_keys, num_queries) if by_key else (num_queries, num_keys)
    num_pairs = -(-owners // 2) if merge else owners
    # An entry is one integer, (head, pair, list, walked block) from high to low, in as few sorts as 32 bits allow.
    if 3 * num_pairs * walked > LAST:
        raise ValueError(f"block-sparse attention: {num_queries} x {num_keys} pairs of blocks; take larger blocks")
    heads = largest_divisor(B * N, LAST // (3 * num_pairs * walked))
    keys_GhIR = keys_GhIR.reshape(-1, heads, num_queries, R)
    queries_GhIR = jnp.broadcast_to(jnp.arange(num_queries, dtype=jnp.int32)[:, None], keys_GhIR.shape)
    owner, block = (keys_GhIR, queries_GhIR) if by_key else (queries_GhIR, keys_GhIR)
    pair, which = (owner // 2, owner % 2) if merge else (owner, jnp.zeros_like(owner))
    pair = jnp.arange(heads, dtype=jnp.int32)[:, None, None] * num_pairs + pair
    counted = jnp.arange(R, dtype=jnp.int32) < selection.counts_BNI.reshape(-1, heads, num_queries, 1)

    def in_order(entries: Array, valid: Array) -> Array:
        return jnp.sort(jnp.where(valid, entries, LAST).reshape(-1, heads * num_queries * R), axis=-1)

    if merge:
        both_GE = in_order((pair * walked + block) * 2 + which, counted)
        twice = (both_GE[:, 1:] >> 1 == both_GE[:, :-1] >> 1) & (both_GE[:, 1:] != LAST)
        first, second = jnp.pad(twice, ((0, 0), (0, 1))), jnp.pad(twice, ((0, 0), (1, 0)))
        pair, block = both_GE // (2 * walked), both_GE // 2 % walked
        which = jnp.where(first, SHARED, FIRST + both_GE % 2)
        counted = (both_GE != LAST) & ~second
    entries_GE = in_order((3 * pair + which) * walked + block, counted)
    bounds_hj = jnp.arange(3 * num_pairs + 1, dtype=jnp.int32)
    bounds_hj = (jnp.arange(heads, dtype=jnp.int32)[:, None] * 3 * num_pairs + bounds_hj) * walked
    starts_Ghj = jax.vmap(lambda entries_E: jnp.searchsorted(entries_E, bounds_hj).astype(jnp.int32))(entries_GE)
    group_start = jnp.arange(entries_GE.shape[0], dtype=jnp.int32) * entries_GE.shape[1]
    return PairedLists(
        jax.lax.rem(entries_GE, walked).reshape(-1),
        (starts_Ghj + group_start[:, None, None]).reshape(B, N, 3 * num_pairs + 1),
    )
