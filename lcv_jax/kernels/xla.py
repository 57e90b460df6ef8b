"""Dense and block-sparse attention in XLA, on any device, in memory linear in the number of tokens.

Queries are worked through in pieces whose scores fit a fixed workspace; each piece sees all of its keys, so its softmax
is the plain one. Gradients recompute a piece's scores instead of keeping them. Scores and softmax are float32; products
take operands in the inputs' dtype and add up in float32.
"""

import math

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Bool, Float
from lcv_jax.kernels.block_select import Selection

MIN_QUERIES = 16
"""Rows of a product below which it is all overhead."""


def workspace() -> int:
    """Float32 scores held at once: what stays in a core's cache on a CPU, what fills a device elsewhere."""
    return 2**20 if jax.default_backend() == "cpu" else 2**27


def _product(spec: str, x: Array, y: Array) -> Array:
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jnp.einsum(spec, x, y, precision=precision, preferred_element_type=jnp.float32)


def _weights(logits: Array, allowed: Array | None) -> tuple[Array, Array]:
    """exp(logits - their maximum) over the last axis where allowed, and its sum.

    The caller divides by the sum after the product, which has fewer elements. A row with nothing allowed gets zeros and
    a sum of one, never NaN.
    """
    if allowed is None:
        weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
        return weights, jnp.sum(weights, axis=-1, keepdims=True)
    top = jnp.max(logits, axis=-1, keepdims=True, where=allowed, initial=jnp.finfo(logits.dtype).min)
    weights = jnp.where(allowed, jnp.exp(jnp.where(allowed, logits, top) - top), 0.0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return weights, jnp.where(total > 0, total, 1.0)


def dense(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    key_mask_BM: Bool[Array, "B M"] | None = None,
) -> Float[Array, "B S N K"]:
    """softmax(q k^T / sqrt(K)) v over the keys that `key_mask_BM` allows."""
    B, S, N, K = q_BSNK.shape
    M = k_BMNK.shape[1]
    # Equal pieces of queries, as large as the workspace allows: less than one query a piece is padding.
    num_pieces = -(-S // min(S, max(MIN_QUERIES, workspace() // M)))
    size = -(-S // num_pieces)
    padded = jnp.pad(q_BSNK, ((0, 0), (0, num_pieces * size - S), (0, 0), (0, 0)))
    q_HPsK = jnp.moveaxis(padded.reshape(B, num_pieces, size, N, K), 3, 1).reshape(B * N, num_pieces, size, K)
    k_HKM = jnp.transpose(k_BMNK, (0, 2, 3, 1)).reshape(B * N, K, M)
    v_HMK = jnp.transpose(v_BMNK, (0, 2, 1, 3)).reshape(B * N, M, K)
    allowed_HM = None if key_mask_BM is None else jnp.repeat(key_mask_BM, N, axis=0)

    def head(arguments: tuple[Array, Array, Array, Array | None]) -> Array:
        q_PsK, k_KM, v_MK, allowed_M = arguments

        @jax.checkpoint
        def piece(q_sK: Array) -> Array:
            weights_sM, total_s1 = _weights(_product("sk,km->sm", q_sK, k_KM) / math.sqrt(K), allowed_M)
            return (_product("sm,mk->sk", weights_sM.astype(v_MK.dtype), v_MK) / total_s1).astype(q_sK.dtype)

        return jax.lax.map(piece, q_PsK) if num_pieces > 1 else piece(q_PsK[0])[None]

    at_once = max(1, workspace() // (size * M))
    out_HPsK = jax.lax.map(head, (q_HPsK, k_HKM, v_HMK, allowed_HM), batch_size=min(at_once, B * N))
    out_BSNK = jnp.moveaxis(out_HPsK.reshape(B, N, num_pieces * size, K), 1, 2)
    return out_BSNK[:, :S]


def block_sparse(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    selection: Selection,
    block_q: int,
    block_k: int,
) -> Float[Array, "B S N K"]:
    """Attention of every query block to its selected key blocks, for tokens in block order.

    Only the selected keys and values of a few query blocks at a time are gathered. Every query block takes the time of
    the longest list there can be: with a CDF threshold, whose lists vary, that is all blocks.
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
        weights_XM, total_X1 = _weights(_product("xk,mk->xm", q_XK, k_MK) / math.sqrt(K), allowed_1M)
        return (_product("xm,mk->xk", weights_XM.astype(v_MK.dtype), v_MK) / total_X1).astype(q_XK.dtype)

    # A CPU is fastest with one at a time.
    at_once = max(1, workspace() // 8 // (block_q * R * block_k))
    out = jax.lax.map(
        lambda arguments: one(*arguments),
        (q_blocks, rows, counts_BNI.reshape(-1)),
        batch_size=min(at_once, q_blocks.shape[0]),
    )
    out_BNIXK = out.reshape(B, N, num_queries, block_q, K)
    return jnp.transpose(out_BNIXK, (0, 2, 3, 1, 4)).reshape(B, S, N, K)
