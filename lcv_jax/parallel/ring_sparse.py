"""Block-sparse attention split by keys, inside shard_map (report appendix A.2.2).

Every device pools its own keys by blocks; the pooled keys of all, a block's length smaller than the keys, are gathered.
Each device scores its own query blocks against all key blocks and selects as one device does. Then keys and values go
round the ring of parallel/ring.py, and of every list the part is computed that is at hand, which may be nothing.
"""

from lcv_jax.array_types import Array, Float
from lcv_jax.kernels.block_select import Selection, pool_blocks, select_blocks
from lcv_jax.kernels.implementations import choose, selects_by
from lcv_jax.parallel.ranks import Ranks, whole_axis
from lcv_jax.parallel.ring import ring_attend


def ring_block_sparse_attention(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    *,
    axis: str | Ranks,
    block_q: int,
    block_k: int,
    num_key_blocks: int | None = None,
    sparsity: float | None = None,
    cdf_threshold: float | None = None,
    implementation: str = "auto",
) -> Float[Array, "B S N K"]:
    """Attention of this device's query blocks to the best key blocks of all devices of `axis`.

    Args:
        block_q: consecutive tokens of a query block; block_k: of a key block. Devices hold whole blocks.
        num_key_blocks: of all devices together that count; what is behind them is padding. None is all.
        sparsity, cdf_threshold: as in `lcv_jax.kernels.block_select.select_blocks`.

    Raises:
        NotImplementedError: the implementation is not there or cannot take these arrays.
    """
    named = choose(implementation, q_BSNK, k_BMNK, v_BMNK, blocks=(block_q, block_k))
    pooled_BJNK = whole_axis(axis).all_gather(pool_blocks(k_BMNK, block_k), join=1)
    selection = select_blocks(
        pool_blocks(q_BSNK, block_q),
        pooled_BJNK[:, :num_key_blocks],
        sparsity=sparsity,
        cdf_threshold=cdf_threshold,
        implementation=selects_by(named),
    )
    return ring_selected_attention(
        q_BSNK, k_BMNK, v_BMNK, selection, axis=axis, block_q=block_q, block_k=block_k, implementation=named
    )


def ring_selected_attention(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    selection: Selection,
    *,
    axis: str | Ranks,
    block_q: int,
    block_k: int,
    implementation: str = "auto",
) -> Float[Array, "B S N K"]:
    """The same with a selection in hand.

    Args:
        selection: of this device's query blocks, among the key blocks of all devices; lists ascend.
    """
    named = choose(implementation, q_BSNK, k_BMNK, v_BMNK, blocks=(block_q, block_k))
    return ring_attend(whole_axis(axis), named, block_q, block_k, q_BSNK, k_BMNK, v_BMNK, selection, None)
