"""The door to attention: what to compute is said here, what computes it is chosen here.

`implementation` is "auto" or a name. "auto" takes the best that runs on the default device; a named one runs or raises
NotImplementedError that says why. There is one implementation so far, `xla`, which runs everywhere.

Shapes are `B S N K` for queries and `B M N K` for keys and values; the scale is 1 / sqrt(K).
"""

import math

from lcv_jax.array_types import Array, Bool, Float
from lcv_jax.kernels import xla
from lcv_jax.kernels.block_order import Shape3D, block_order
from lcv_jax.kernels.block_select import Selection, pool_blocks, select_blocks, selection_of_mask

IMPLEMENTATIONS = ("xla",)


def _check(implementation: str) -> None:
    if implementation not in ("auto", *IMPLEMENTATIONS):
        raise NotImplementedError(
            f"attention implementation {implementation!r}: have auto, {', '.join(IMPLEMENTATIONS)}"
        )


def attention(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    *,
    key_mask_BM: Bool[Array, "B M"] | None = None,
    implementation: str = "auto",
) -> Float[Array, "B S N K"]:
    """Dense attention, in memory linear in the number of tokens.

    Args:
        key_mask_BM: keys that may be attended to; None is all. A row of False gives zeros.

    Raises:
        NotImplementedError: an implementation that is not there.
    """
    _check(implementation)
    return xla.dense(q_BSNK, k_BMNK, v_BMNK, key_mask_BM)


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
    block_mask: Bool[Array, "B N I J"] | None = None,
    implementation: str = "auto",
) -> Float[Array, "B S N K"]:
    """Block-sparse attention of a video (report section 3.4): tokens come and go in plain (T, H, W) order.

    Args:
        query_shape: T x H x W of the query tokens; key_shape: of the keys.
        query_block: tokens of a block, T x H x W; key_block: likewise.
        sparsity: share of key blocks left out; see `select_blocks`.
        cdf_threshold: softmax mass to keep; see `select_blocks`.
        block_mask: pairs of blocks to compute, instead of the two above; block indices count in (T, H, W) order.

    Raises:
        ValueError: a shape that does not hold its tokens or is no multiple of its block; not exactly one way to select.
        NotImplementedError: an implementation that is not there.
    """
    for name, x, shape in (("query", q_BSNK, query_shape), ("key", k_BMNK, key_shape)):
        if x.shape[1] != math.prod(shape):
            raise ValueError(f"{name}_shape {shape} holds {math.prod(shape)} tokens, got {x.shape[1]}")
    by_query, by_key = block_order(query_shape, query_block), block_order(key_shape, key_block)
    out = ordered_block_sparse_attention(
        by_query.apply(q_BSNK),
        by_key.apply(k_BMNK),
        by_key.apply(v_BMNK),
        block_q=math.prod(query_block),
        block_k=math.prod(key_block),
        sparsity=sparsity,
        cdf_threshold=cdf_threshold,
        block_mask=block_mask,
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
    block_mask: Bool[Array, "B N I J"] | None = None,
    implementation: str = "auto",
) -> Float[Array, "B S N K"]:
    """Block-sparse attention of tokens that are in block order already (kernels/block_order.py): nothing is permuted.

    Args:
        block_q: consecutive tokens of a query block; block_k: of a key block.
        sparsity, cdf_threshold, block_mask: as in `block_sparse_attention`.
    """
    _check(implementation)
    if (block_mask is None) == (sparsity is None and cdf_threshold is None):
        raise ValueError("block-sparse attention: give either block_mask, or sparsity and/or cdf_threshold")
    selection: Selection
    if block_mask is not None:
        selection = selection_of_mask(block_mask)
    else:
        q_BINK, k_BJNK = pool_blocks(q_BSNK, block_q), pool_blocks(k_BMNK, block_k)
        selection = select_blocks(q_BINK, k_BJNK, sparsity=sparsity, cdf_threshold=cdf_threshold)
    return xla.block_sparse(q_BSNK, k_BMNK, v_BMNK, selection, block_q, block_k)
