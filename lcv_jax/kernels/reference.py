"""Float32 definitions in plain jnp, S x S and all: what every implementation is tested against."""

import math

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Bool, Float


def attention(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    mask_BNSM: Bool[Array, "B N S M"] | None = None,
) -> Float[Array, "B S N K"]:
    """softmax(q k^T / sqrt(K)) v where the mask allows; a query that may attend to nothing gets zero."""
    q, k, v = (x.astype(jnp.float32) for x in (q_BSNK, k_BMNK, v_BMNK))
    logits_BNSM = jnp.einsum("bsnk,bmnk->bnsm", q, k, precision="highest") / math.sqrt(q.shape[-1])
    if mask_BNSM is not None:
        logits_BNSM = jnp.where(mask_BNSM, logits_BNSM, -jnp.inf)
        empty_BNS1 = ~jnp.any(mask_BNSM, axis=-1, keepdims=True)
        weights_BNSM = jnp.where(empty_BNS1, 0.0, jax.nn.softmax(jnp.where(empty_BNS1, 0.0, logits_BNSM)))
    else:
        weights_BNSM = jax.nn.softmax(logits_BNSM)
    return jnp.einsum("bnsm,bmnk->bsnk", weights_BNSM, v, precision="highest")


def block_sparse_attention(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    mask_BNIJ: Bool[Array, "B N I J"],
) -> Float[Array, "B S N K"]:
    """Attention inside the allowed pairs of blocks, for tokens in block order."""
    num_queries, num_keys = mask_BNIJ.shape[2:]
    mask = jnp.repeat(mask_BNIJ, q_BSNK.shape[1] // num_queries, axis=2)
    return attention(q_BSNK, k_BMNK, v_BMNK, jnp.repeat(mask, k_BMNK.shape[1] // num_keys, axis=3))
