"""Dense and block-sparse attention in XLA, on any device, in memory linear in the number of tokens.

Queries are worked through in pieces whose scores fit a fixed workspace; each piece sees all of its keys, so its softmax
is the plain one. The backward pass recomputes a piece's weights from the log-sum-exp instead of keeping them. Scores
and softmax are float32; products take operands in the inputs' dtype and add up in float32.
"""

import math

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Bool, Float
from lcv_jax.kernels.block_select import Selection, largest_divisor
from lcv_jax.kernels.platform import target_platform

MIN_QUERIES = 16
"""Rows of a product below which it is all overhead."""


def workspace() -> int:
    """Float32 scores held at once: what stays in a core's cache on a CPU, what fills a device elsewhere."""
    return 2**20 if target_platform() == "cpu" else 2**27


def _product(spec: str, x: Array, y: Array) -> Array:
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jnp.einsum(spec, x, y, precision=precision, preferred_element_type=jnp.float32)


def _attend(q_sK: Array, k_KM: Array, v_MK: Array, allowed: Array | None) -> tuple[Array, Array]:
    """Attention of a piece of queries and its log-sum-exp; nothing allowed gives zeros and -inf, never NaN.

    Args:
        allowed: of every key, M, or of every query and key, s M.
    """
    logits_sM = _product("sk,km->sm", q_sK, k_KM) / math.sqrt(q_sK.shape[-1])
    if allowed is not None:
        logits_sM = jnp.where(allowed, logits_sM, -jnp.inf)
    top_s1 = jnp.max(logits_sM, axis=-1, keepdims=True)
    weights_sM = jnp.exp(logits_sM - jnp.where(top_s1 == -jnp.inf, 0.0, top_s1))
    total_s1 = jnp.where(top_s1 == -jnp.inf, 1.0, jnp.sum(weights_sM, axis=-1, keepdims=True))
    # Dividing after the product touches fewer elements.
    out_sK = _product("sm,mk->sk", weights_sM.astype(v_MK.dtype), v_MK) / total_s1
    return out_sK.astype(q_sK.dtype), (top_s1 + jnp.log(total_s1))[:, 0]


def _gradients(
    q_sK: Array, k_MK: Array, v_MK: Array, do_sK: Array, lse_s: Array, delta_s: Array, allowed: Array | None
) -> tuple[Array, Array, Array]:
    """A piece's dq, and its float32 shares of dk and dv.

    Args:
        lse_s: +inf of rows without keys, whose weights are zero then.
        allowed: as in `_attend`.
    """
    scale = 1 / math.sqrt(q_sK.shape[-1])
    weights_sM = jnp.exp(_product("sk,mk->sm", q_sK, k_MK) * scale - lse_s[:, None])
    if allowed is not None:
        weights_sM = jnp.where(allowed, weights_sM, 0.0)
    dlogits_sM = weights_sM * (_product("sk,mk->sm", do_sK, v_MK) - delta_s[:, None]) * scale
    dlogits_sM = dlogits_sM.astype(q_sK.dtype)
    return (
        _product("sm,mk->sk", dlogits_sM, k_MK).astype(q_sK.dtype),
        _product("sm,sk->mk", dlogits_sM, q_sK),
        _product("sm,sk->mk", weights_sM.astype(do_sK.dtype), do_sK),
    )


def _delta(out_BSNK: Array, d_out_BSNK: Array, d_lse_BNS: Array | None) -> Array:
    """What the softmax's gradient subtracts in every row."""
    delta_BNS = jnp.einsum("bsnk,bsnk->bns", out_BSNK, d_out_BSNK, preferred_element_type=jnp.float32)
    return delta_BNS if d_lse_BNS is None else delta_BNS - d_lse_BNS


def _pieces(num_queries: int, num_keys: int) -> tuple[int, int]:
    """Equal pieces of queries, as large as the workspace allows: how many, and their size. Little of it is padding."""
    num_pieces = -(-num_queries // min(num_queries, max(MIN_QUERIES, workspace() // num_keys)))
    return num_pieces, -(-num_queries // num_pieces)


def _heads_of_pieces(x_BSNx: Array, num_pieces: int, size: int) -> Array:
    """B S N ... -> (B N) pieces size ..."""
    B, S, N, *rest = x_BSNx.shape
    padded = jnp.pad(x_BSNx, ((0, 0), (0, num_pieces * size - S), *((0, 0) for _ in x_BSNx.shape[2:])))
    return jnp.moveaxis(padded.reshape(B, num_pieces, size, N, *rest), 3, 1).reshape(B * N, num_pieces, size, *rest)


def _undo_pieces(x_HPsx: Array, batch: int, num_queries: int) -> Array:
    """(B N) pieces size ... -> B N S ..."""
    _, num_pieces, size, *rest = x_HPsx.shape
    return x_HPsx.reshape(batch, -1, num_pieces * size, *rest)[:, :, :num_queries]


def _heads(x_BMNK: Array) -> Array:
    B, M, N, K = x_BMNK.shape
    return jnp.swapaxes(x_BMNK, 1, 2).reshape(B * N, M, K)


def _allowed(last_s: Array | None, allowed_M: Array | None, num_keys: int) -> Array | None:
    """Which keys a piece of queries may attend to: of a causal one, those up to each query's last. Never S x M."""
    if last_s is None:
        return allowed_M
    allowed_sM = jnp.arange(num_keys) <= last_s[:, None]
    return allowed_sM if allowed_M is None else allowed_sM & allowed_M


def _last_keys(causal: bool, num_queries: int, num_keys: int, num_pieces: int, size: int) -> Array | None:
    """The last key of each query, in pieces: the last query sees all keys."""
    if not causal:
        return None
    return (jnp.arange(num_pieces * size) + num_keys - num_queries).reshape(num_pieces, size)


def dense_forward(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    key_mask_BM: Bool[Array, "B M"] | None,
    causal: bool = False,
) -> tuple[Float[Array, "B S N K"], Float[Array, "B N S"]]:
    """softmax(q k^T / sqrt(K)) v over the keys that `key_mask_BM` and `causal` allow, and the log-sum-exp."""
    B, S, N, _ = q_BSNK.shape
    M = k_BMNK.shape[1]
    num_pieces, size = _pieces(S, M)
    allowed_HM = None if key_mask_BM is None else jnp.repeat(key_mask_BM, N, axis=0)
    last_Ps = _last_keys(causal, S, M, num_pieces, size)

    def head(given: tuple[Array, Array, Array, Array | None]) -> tuple[Array, Array]:
        q_PsK, k_KM, v_MK, allowed_M = given

        def piece(given: tuple[Array, Array | None]) -> tuple[Array, Array]:
            q_sK, last_s = given
            return _attend(q_sK, k_KM, v_MK, _allowed(last_s, allowed_M, M))

        return jax.lax.map(piece, (q_PsK, last_Ps))

    given = (_heads_of_pieces(q_BSNK, num_pieces, size), jnp.swapaxes(_heads(k_BMNK), 1, 2), _heads(v_BMNK), allowed_HM)
    out_HPsK, lse_HPs = jax.lax.map(head, given, batch_size=min(B * N, max(1, workspace() // (size * M))))
    return jnp.swapaxes(_undo_pieces(out_HPsK, B, S), 1, 2), _undo_pieces(lse_HPs, B, S)


def dense_backward(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    key_mask_BM: Bool[Array, "B M"] | None,
    out_BSNK: Float[Array, "B S N K"],
    lse_BNS: Float[Array, "B N S"],
    d_out_BSNK: Float[Array, "B S N K"],
    d_lse_BNS: Float[Array, "B N S"] | None,
    causal: bool = False,
) -> tuple[Float[Array, "B S N K"], Float[Array, "B M N K"], Float[Array, "B M N K"]]:
    """Gradients of queries, keys and values from what the forward pass gave."""
    B, S, N, K = q_BSNK.shape
    M = k_BMNK.shape[1]
    num_pieces, size = _pieces(S, M)
    allowed_HM = None if key_mask_BM is None else jnp.repeat(key_mask_BM, N, axis=0)
    lse_BNS = jnp.where(lse_BNS == -jnp.inf, jnp.inf, lse_BNS)
    rows = (jnp.swapaxes(x, 1, 2) for x in (lse_BNS, _delta(out_BSNK, d_out_BSNK, d_lse_BNS)))
    pieces = tuple(_heads_of_pieces(x, num_pieces, size) for x in (q_BSNK, d_out_BSNK, *rows))
    last_Ps = _last_keys(causal, S, M, num_pieces, size)

    def head(given: tuple) -> tuple[Array, Array, Array]:
        pieces, k_MK, v_MK, allowed_M = given

        def piece(sums: tuple[Array, Array], piece: tuple) -> tuple[tuple[Array, Array], Array]:
            (q_sK, do_sK, lse_s, delta_s), last_s = piece
            allowed = _allowed(last_s, allowed_M, M)
            dq_sK, dk_MK, dv_MK = _gradients(q_sK, k_MK, v_MK, do_sK, lse_s, delta_s, allowed)
            return (sums[0] + dk_MK, sums[1] + dv_MK), dq_sK

        nothing = jnp.zeros((M, K), jnp.float32)
        (dk_MK, dv_MK), dq_PsK = jax.lax.scan(piece, (nothing, nothing), (pieces, last_Ps))
        return dq_PsK, dk_MK.astype(k_MK.dtype), dv_MK.astype(v_MK.dtype)

    given = (pieces, _heads(k_BMNK), _heads(v_BMNK), allowed_HM)
    dq_HPsK, dk_HMK, dv_HMK = jax.lax.map(head, given, batch_size=min(B * N, max(1, workspace() // (size * M))))
    dk_BNMK, dv_BNMK = dk_HMK.reshape(B, N, M, K), dv_HMK.reshape(B, N, M, K)
    return jnp.swapaxes(_undo_pieces(dq_HPsK, B, S), 1, 2), jnp.swapaxes(dk_BNMK, 1, 2), jnp.swapaxes(dv_BNMK, 1, 2)


def _blocks(x_BSNx: Array, block: int) -> Array:
    """B S N ... -> (B N blocks) block ..."""
    B, S, N, *rest = x_BSNx.shape
    return jnp.moveaxis(x_BSNx.reshape(B, S // block, block, N, *rest), 3, 1).reshape(-1, block, *rest)


def _undo_blocks(x: Array, batch: int, heads: int) -> Array:
    """(B N blocks) block K -> B S N K."""
    return jnp.swapaxes(x.reshape(batch, heads, -1, x.shape[-1]), 1, 2)


def _rows(selection: Selection, num_keys: int) -> tuple[Array, Array]:
    """For every query block its key blocks, counted through all heads and videos, and how many of them count."""
    B, N, _, R = selection.indices_BNIR.shape
    first_key_block = (jnp.arange(B * N, dtype=jnp.int32) * num_keys).reshape(B, N, 1, 1)
    return (selection.indices_BNIR + first_key_block).reshape(-1, R), selection.counts_BNI.reshape(-1)


def _gather(k_blocks: Array, v_blocks: Array, row_R: Array, count: Array) -> tuple[Array, Array, Array]:
    """A list's keys and values, and which of them are selected.

    What is not selected is zero: NaN in it must not reach a product, not even with a weight of zero.
    """
    R, (_, size, K) = row_R.shape[0], k_blocks.shape
    allowed_M = jnp.repeat(jnp.arange(R) < count, size)
    k_MK, v_MK = (jnp.where(allowed_M[:, None], x[row_R].reshape(R * size, K), 0) for x in (k_blocks, v_blocks))
    return k_MK, v_MK, allowed_M


def _query_blocks_at_once(num_blocks: int, scores: int) -> int:
    """How many query blocks with `scores` scores each; a CPU is fastest with one."""
    return largest_divisor(num_blocks, workspace() // 8 // scores)


def sparse_forward(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    selection: Selection,
    block_q: int,
    block_k: int,
) -> tuple[Float[Array, "B S N K"], Float[Array, "B N S"]]:
    """Attention of every query block to its key blocks, for tokens in block order, and the log-sum-exp.

    Only the selected keys and values of a few query blocks at a time are gathered. Every query block takes the time of
    the longest list there can be: with a CDF threshold, whose lists vary, that is all blocks.
    """
    B, S, N, _ = q_BSNK.shape
    q_blocks, k_blocks, v_blocks = _blocks(q_BSNK, block_q), _blocks(k_BMNK, block_k), _blocks(v_BMNK, block_k)
    rows, counts = _rows(selection, k_BMNK.shape[1] // block_k)

    def query_block(given: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        q_XK, row_R, count = given
        k_MK, v_MK, allowed_M = _gather(k_blocks, v_blocks, row_R, count)
        return _attend(q_XK, k_MK.T, v_MK, allowed_M)

    at_once = _query_blocks_at_once(q_blocks.shape[0], block_q * rows.shape[1] * block_k)
    out, lse = jax.lax.map(query_block, (q_blocks, rows, counts), batch_size=at_once)
    return _undo_blocks(out, B, N), lse.reshape(B, N, S)


def sparse_backward(
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
) -> tuple[Float[Array, "B S N K"], Float[Array, "B M N K"], Float[Array, "B M N K"]]:
    """Gradients of queries, keys and values from what the forward pass gave."""
    B, _, N, _ = q_BSNK.shape
    k_blocks, v_blocks = _blocks(k_BMNK, block_k), _blocks(v_BMNK, block_k)
    rows, counts = _rows(selection, k_BMNK.shape[1] // block_k)
    delta_BNS = _delta(out_BSNK, d_out_BSNK, d_lse_BNS)
    lse, delta = (x.reshape(-1, block_q) for x in (jnp.where(lse_BNS == -jnp.inf, jnp.inf, lse_BNS), delta_BNS))
    given = (_blocks(q_BSNK, block_q), rows, counts, _blocks(d_out_BSNK, block_q), lse, delta)

    def query_block(q_XK: Array, row_R: Array, count: Array, do_XK: Array, lse_X: Array, delta_X: Array) -> tuple:
        k_MK, v_MK, allowed_M = _gather(k_blocks, v_blocks, row_R, count)
        dq_XK, dk_MK, dv_MK = _gradients(q_XK, k_MK, v_MK, do_XK, lse_X, delta_X, allowed_M)
        return dq_XK, dk_MK.reshape(-1, block_k, dk_MK.shape[-1]), dv_MK.reshape(-1, block_k, dv_MK.shape[-1])

    def some(sums: tuple[Array, Array], given: tuple) -> tuple[tuple[Array, Array], Array]:
        dq, dk, dv = jax.vmap(query_block)(*given)
        at = given[1].reshape(-1)
        dk_sum, dv_sum = (
            total.at[at].add(x.reshape(-1, *x.shape[2:])) for total, x in zip(sums, (dk, dv), strict=True)
        )
        return (dk_sum, dv_sum), dq

    num_blocks = given[0].shape[0]
    at_once = _query_blocks_at_once(num_blocks, block_q * rows.shape[1] * block_k)
    grouped = jax.tree.map(lambda x: x.reshape(num_blocks // at_once, at_once, *x.shape[1:]), given)
    nothing = jnp.zeros(k_blocks.shape, jnp.float32)
    (dk, dv), dq = jax.lax.scan(some, (nothing, nothing), grouped)
    dq_BSNK = _undo_blocks(dq.reshape(num_blocks, block_q, -1), B, N)
    return dq_BSNK, _undo_blocks(dk, B, N).astype(k_BMNK.dtype), _undo_blocks(dv, B, N).astype(v_BMNK.dtype)
