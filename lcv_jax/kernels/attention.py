"""The door to attention: what to compute is said here, what computes it is chosen here.

`implementation` is "auto" or a name of kernels/implementations.py. "auto" takes the fastest that takes the arrays: on a
GPU cuDNN for dense and our Pallas kernels for sparse attention, elsewhere XLA. A named one runs or raises
NotImplementedError that says why.

Shapes are `B S N K` for queries and `B M N K` for keys and values; the scale is 1 / sqrt(K). A query that may attend to
nothing gets zeros, a log-sum-exp of -inf and zero gradients.
"""

import math

import jax
import numpy as np

from lcv_jax.array_types import Array, Bool, Float
from lcv_jax.kernels import block_patterns
from lcv_jax.kernels.block_order import Shape3D, block_order
from lcv_jax.kernels.block_patterns import BlockPattern
from lcv_jax.kernels.block_select import Selection, pool_blocks, select_blocks, selection_of_mask
from lcv_jax.kernels.implementations import CHEAP_RESIDUALS, RESIDUALS, attend, choose, selects_by


def attention(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    *,
    key_mask_BM: Bool[Array, "B M"] | None = None,
    causal: bool = False,
    cheap: bool = False,
    implementation: str = "auto",
) -> Float[Array, "B S N K"]:
    """Dense attention of any length, in memory linear in the number of tokens.

    Args:
        key_mask_BM: keys that may be attended to; None is all. A row of False gives zeros.
        causal: query s attends to keys up to s + M - S only: the queries are the last of the keys' tokens.
        cheap: there are so few keys that rematerialisation had better compute it again than keep the result.

    Raises:
        NotImplementedError: the implementation is not there or cannot take these arrays.
    """
    named = choose(implementation, q_BSNK, k_BMNK, v_BMNK, blocks=None, key_mask_BM=key_mask_BM, causal=causal)
    residuals = CHEAP_RESIDUALS if cheap else RESIDUALS
    lengths = (q_BSNK.shape[1], k_BMNK.shape[1])
    return attend(named, *lengths, residuals, causal, q_BSNK, k_BMNK, v_BMNK, None, key_mask_BM)[0]


def attention_with_lse(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    *,
    key_mask_BM: Bool[Array, "B M"] | None = None,
    implementation: str = "auto",
) -> tuple[Float[Array, "B S N K"], Float[Array, "B N S"]]:
    """`attention`, and the float32 log-sum-exp of its scores, by which attention to several sets of keys is merged."""
    named = choose(implementation, q_BSNK, k_BMNK, v_BMNK, blocks=None, key_mask_BM=key_mask_BM)
    lengths = (q_BSNK.shape[1], k_BMNK.shape[1])
    return attend(named, *lengths, RESIDUALS, False, q_BSNK, k_BMNK, v_BMNK, None, key_mask_BM)


def block_sparse_attention(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    *,
    query_shape: Shape3D,
    key_shape: Shape3D,
    query_block: Shape3D,
    key_block: Shape3D,
    sparsity: float | None = None,
    cdf_threshold: float | None = None,
    block_mask: Bool[Array, "*#BN I J"] | BlockPattern | None = None,
    implementation: str = "auto",
) -> Float[Array, "B S N K"]:
    """Block-sparse attention of a video (report section 3.4): tokens come and go in plain (T, H, W) order.

    Args:
        query_shape: T x H x W of the query tokens; key_shape: of the keys.
        query_block: tokens of a block, T x H x W; key_block: likewise.
        sparsity: share of key blocks left out; see `select_blocks`.
        cdf_threshold: softmax mass to keep; see `select_blocks`.
        block_mask: pairs of blocks to compute, instead of the two above: an array, [I, J] or with axes in front that
            broadcast to B and N, where blocks count in (T, H, W) order; or a rule, see kernels/block_patterns.py.

    Raises:
        ValueError: a shape that does not hold its tokens or is no multiple of its block; not exactly one way to select.
        NotImplementedError: the implementation is not there or cannot take these arrays.
    """
    for name, x, shape in (("query", q_BSNK, query_shape), ("key", k_BMNK, key_shape)):
        if x.shape[1] != math.prod(shape):
            raise ValueError(f"{name}_shape {shape} holds {math.prod(shape)} tokens, got {x.shape[1]}")
    by_query, by_key = block_order(query_shape, query_block), block_order(key_shape, key_block)
    video = {"query_shape": query_shape, "key_shape": key_shape, "query_block": query_block, "key_block": key_block}
    out = ordered_block_sparse_attention(
        by_query.apply(q_BSNK),
        by_key.apply(k_BMNK),
        by_key.apply(v_BMNK),
        block_q=math.prod(query_block),
        block_k=math.prod(key_block),
        sparsity=sparsity,
        cdf_threshold=cdf_threshold,
        block_mask=block_patterns.block_mask(block_mask, **video) if callable(block_mask) else block_mask,
        implementation=implementation,
    )
    return by_query.undo(out)


def ordered_block_sparse_attention(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    *,
    block_q: int,
    block_k: int,
    sparsity: float | None = None,
    cdf_threshold: float | None = None,
    block_mask: Bool[Array | np.ndarray, "*#BN I J"] | None = None,
    means: tuple[Float[Array, "B I N K"], Float[Array, "B J N K"]] | None = None,
    implementation: str = "auto",
) -> Float[Array, "B S N K"]:
    """Block-sparse attention of tokens that are in block order already (kernels/block_order.py): nothing is permuted.

    Args:
        block_q: consecutive tokens of a query block; block_k: of a key block.
        sparsity, cdf_threshold, block_mask: as in `block_sparse_attention`.
        means: `pool_blocks` of queries and keys, where they are known; None: they are computed.
    """
    check_one_way_to_select(sparsity, cdf_threshold, block_mask)
    check_blocks(q_BSNK, k_BMNK, block_q, block_k)
    named = choose(implementation, q_BSNK, k_BMNK, v_BMNK, blocks=(block_q, block_k))
    if block_mask is not None:
        selection = selection_of_block_mask(block_mask, q_BSNK, k_BMNK, block_q, block_k)
    else:
        selection = select_blocks(
            *(means or (pool_blocks(q_BSNK, block_q), pool_blocks(k_BMNK, block_k))),
            sparsity=sparsity,
            cdf_threshold=cdf_threshold,
            implementation=selects_by(named),
        )
    return attend(named, block_q, block_k, RESIDUALS, False, q_BSNK, k_BMNK, v_BMNK, selection, None)[0]


def selected_attention_with_lse(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    selection: Selection,
    *,
    block_q: int,
    block_k: int,
    implementation: str = "auto",
) -> tuple[Float[Array, "B S N K"], Float[Array, "B N S"]]:
    """Attention of query blocks to the key blocks of a selection in hand, and the float32 log-sum-exp of its scores.

    Args:
        selection: lists of key blocks in any order, of any lengths; a block must not come twice in one.
        block_q, block_k: as in `ordered_block_sparse_attention`.
    """
    check_blocks(q_BSNK, k_BMNK, block_q, block_k)
    named = choose(implementation, q_BSNK, k_BMNK, v_BMNK, blocks=(block_q, block_k))
    return attend(named, block_q, block_k, RESIDUALS, False, q_BSNK, k_BMNK, v_BMNK, selection, None)


def check_one_way_to_select(sparsity: float | None, cdf_threshold: float | None, block_mask: object) -> None:
    """Refuses no way to select blocks, and two.

    Raises:
        ValueError: with what to give.
    """
    if (block_mask is None) == (sparsity is None and cdf_threshold is None):
        raise ValueError("block-sparse attention: give either block_mask, or sparsity and/or cdf_threshold")


def check_blocks(q_BSNK: Array, k_BMNK: Array, block_q: int, block_k: int) -> None:
    """Refuses tokens that are no whole number of blocks.

    Raises:
        ValueError: with the two numbers.
    """
    for name, x, block in (("queries", q_BSNK, block_q), ("keys", k_BMNK, block_k)):
        if block < 1 or x.shape[1] % block:
            raise ValueError(f"block-sparse attention: {x.shape[1]} {name} are no multiple of a block of {block}")


def selection_of_block_mask(
    mask: Bool[Array | np.ndarray, "*#BN I J"], q_BSNK: Array, k_BMNK: Array, block_q: int, block_k: int
) -> Selection:
    """The selection of a caller's block mask, which must fit the tokens.

    Raises:
        ValueError: it does not; with the shape wanted.
    """
    B, S, N, _ = q_BSNK.shape
    wanted = (B, N, S // block_q, k_BMNK.shape[1] // block_k)
    fits = mask.ndim >= 2 and all(
        have in (1, want) for have, want in zip(mask.shape[:-2], wanted[4 - mask.ndim : 2], strict=True)
    )
    if mask.shape[-2:] != wanted[2:] or not fits:
        raise ValueError(f"block_mask must broadcast to videos, heads, query and key blocks {wanted}, got {mask.shape}")
    return selection_of_mask(mask if isinstance(mask, (np.ndarray, jax.Array)) else np.asarray(mask), batch=B, heads=N)
