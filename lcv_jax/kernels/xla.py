"""Dense and block-sparse attention in XLA, on any device, in memory linear in the number of tokens.

Queries are worked through in pieces whose scores fit a fixed workspace; each piece sees all of its keys, so its softmax is
the plain one. Gradients recompute a piece's scores instead of keeping them. Scores and softmax are float32; products take
operands in the inputs' dtype and add up in float32.
"""

import math

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Bool, Float
from lcv_jax.kernels.block_select import Selection

WORKSPACE = 2**26
"""Float32 scores held at once (256 MiB)."""


def _product(spec: str, x: Array, y: Array) -> Array:
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jnp.einsum(spec, x, y, precision=precision, preferred_element_type=jnp.float32)


def _weights(logits: Array, allowed: Array | None) -> Array:
    """Softmax over the last axis where allowed; a row with nothing allowed gets zeros, never NaN."""
    if allowed is None:
        return jax.nn.softmax(logits)
    top = jnp.max(logits, axis=-1, keepdims=True, where=allowed, initial=jnp.finfo(logits.dtype).min)
    weights = jnp.where(allowed, jnp.exp(jnp.where(allowed, logits, top) - top), 0.0)
    return weights / jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), jnp.finfo(logits.dtype).tiny)


def dense(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    key_mask_BM: Bool[Array, "B M"] | None = None,
) -> Float[Array, "B S N K"]:
    """softmax(q k^T / sqrt(K)) v over the keys that `key_mask_BM` allows."""
    B, S, N, K = q_BSNK.shape
    M = k_BMNK.shape[1]
    allowed_B11M = None if key_mask_BM is None else key_mask_BM[:, None, None, :]

    def piece(q_BsNK: Array) -> Array:
        logits_BNsM = _product("bsnk,bmnk->bnsm", q_BsNK, k_BMNK) / math.sqrt(K)
        weights_BNsM = _weights(logits_BNsM, allowed_B11M)
        return _product("bnsm,bmnk->bsnk", weights_BNsM.astype(v_BMNK.dtype), v_BMNK).astype(q_BsNK.dtype)

    size = max(1, WORKSPACE // (B * N * M))
    if size >= S:
        return piece(q_BSNK)
    # Equal pieces, as large as the workspace allows: the padding of the last one is less than one query a piece.
    num_pieces = -(-S // size)
    size = -(-S // num_pieces)
    padded = jnp.pad(q_BSNK, ((0, 0), (0, num_pieces * size - S), (0, 0), (0, 0)))
    pieces = jnp.moveaxis(padded.reshape(B, num_pieces, size, N, K), 1, 0)
    out = jax.lax.map(jax.checkpoint(piece), pieces)
    return jnp.moveaxis(out, 0, 1).reshape(B, num_pieces * size, N, K)[:, :S]


def block_sparse(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    selection: Selection,
    block_q: int,
    block_k: int,
) -> Float[Array, "B S N K"]:
    """Attention of every query block to its selected key blocks, for tokens in block order.

    Only the selected keys and values of a few query blocks at a time are gathered.
    """
    B, S, N, K = q_BSNK.shape
    M = k_BMNK.shape[1]
    num_queries, num_keys = S // block_q, M // block_k
    indices_BNIR, counts_BNI = selection
    R = indices_BNIR.shape[-1]

    def blocks(x: Array, count: int, size: int) -> Array:
        """(batch, head, block) as one axis, then a block's tokens."""
        return jnp.transpose(x.reshape(B, count, size, N, K), (0, 3, 1, 2, 4)).reshape(B * N * count, size, K)

    q_blocks, k_blocks, v_blocks = (
        blocks(q_BSNK, num_queries, block_q),
        blocks(k_BMNK, num_keys, block_k),
        blocks(v_BMNK, num_keys, block_k),
    )
    first_key_block = (jnp.arange(B * N) * num_keys).reshape(B, N, 1, 1)
    rows = (indices_BNIR + first_key_block).reshape(-1, R)

    @jax.checkpoint
    def one(q_XK: Array, row_R: Array, count: Array) -> Array:
        k_MK, v_MK = (x[row_R].reshape(R * block_k, K) for x in (k_blocks, v_blocks))
        allowed_1M = jnp.repeat(jnp.arange(R) < count, block_k)[None]
        # Zeros for what is not selected: NaN in an unselected block must not reach the product with a zero weight.
        v_MK = jnp.where(allowed_1M.T, v_MK, 0)
        weights_XM = _weights(_product("xk,mk->xm", q_XK, k_MK) / math.sqrt(K), allowed_1M)
        return _product("xm,mk->xk", weights_XM.astype(v_MK.dtype), v_MK).astype(q_XK.dtype)

    at_once = max(1, WORKSPACE // 16 // (block_q * R * block_k))
    out = jax.lax.map(
        lambda arguments: one(*arguments),
        (q_blocks, rows, counts_BNI.reshape(-1)),
        batch_size=min(at_once, q_blocks.shape[0]),
    )
    out_BNIXK = out.reshape(B, N, num_queries, block_q, K)
    return jnp.transpose(out_BNIXK, (0, 2, 3, 1, 4)).reshape(B, S, N, K)
