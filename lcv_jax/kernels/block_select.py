"""Which key blocks a query block attends to: mean-pool, score, keep the best (report section 3.4).

A selection is a list per query block, `indices_BNIR` best first, and how many of its entries count, `counts_BNI`. It is
not differentiated, as published.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Bool, Float, Int


class Selection(NamedTuple):
    """For every query block the key blocks that it attends to."""

    indices_BNIR: Int[Array, "B N I R"]
    """Key blocks; entries past the count are filler."""
    counts_BNI: Int[Array, "B N I"]
    """How many of the entries count; may be zero."""


def pool_blocks(x_BSNK: Float[Array, "B S N K"], block: int) -> Float[Array, "B I N K"]:
    """The mean of each block of `block` consecutive tokens, in float32."""
    B, S, N, K = x_BSNK.shape
    return jnp.mean(x_BSNK.reshape(B, S // block, block, N, K), axis=2, dtype=jnp.float32)


def select_blocks(
    q_BINK: Float[Array, "B I N K"],
    k_BJNK: Float[Array, "B J N K"],
    *,
    sparsity: float | None,
    cdf_threshold: float | None,
) -> Selection:
    """Selects key blocks for every query block from their pooled tokens.

    Args:
        sparsity: keep the floor((1 - sparsity) * J) best blocks.
        cdf_threshold: keep the best blocks while the running sum of softmax(score) stays at or below it. The block that
            crosses it is left out, as published.
        Both: the larger count of the two. At least one block is kept (the published code can keep none, which is NaN).
    """
    num_keys, width = k_BJNK.shape[1], k_BJNK.shape[-1]
    score_BNIJ = jnp.einsum("bink,bjnk->bnij", q_BINK, k_BJNK, precision=jax.lax.Precision.HIGHEST) / math.sqrt(width)
    score_BNIJ = jax.lax.stop_gradient(score_BNIJ)
    top = 1 if sparsity is None else max(1, math.floor((1 - sparsity) * num_keys))
    if cdf_threshold is None:
        indices_BNIR = jax.lax.top_k(score_BNIJ, top)[1]
        return Selection(indices_BNIR, jnp.full(indices_BNIR.shape[:-1], top, jnp.int32))
    probability_BNIJ, indices_BNIJ = jax.lax.top_k(jax.nn.softmax(score_BNIJ), num_keys)
    kept_BNI = jnp.sum(jnp.cumsum(probability_BNIJ, axis=-1) <= cdf_threshold, axis=-1, dtype=jnp.int32)
    return Selection(indices_BNIJ, jnp.maximum(kept_BNI, top))


def selection_of_mask(mask_BNIJ: Bool[Array, "B N I J"]) -> Selection:
    """The selection of a caller's own block mask; a query block may have no key block at all."""
    counts_BNI = jnp.sum(mask_BNIJ, axis=-1, dtype=jnp.int32)
    return Selection(jnp.argsort(~mask_BNIJ, axis=-1, stable=True).astype(jnp.int32), counts_BNI)
