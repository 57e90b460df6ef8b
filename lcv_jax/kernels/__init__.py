"""Attention kernels that stand alone: jax only, no flax, no mesh, no config. docs/kernels.md explains them.

`attention.py` is the door, dense attention included; here are the names that a user of block-sparse attention needs.
"""

from lcv_jax.kernels.attention import (
    block_sparse_attention,
    ordered_block_sparse_attention,
    selected_attention_with_lse,
)
from lcv_jax.kernels.block_patterns import space_and_time
from lcv_jax.kernels.block_select import Selection, pool_blocks, select_blocks, selection_of_mask

__all__ = [
    "Selection",
    "block_sparse_attention",
    "ordered_block_sparse_attention",
    "pool_blocks",
    "select_blocks",
    "selected_attention_with_lse",
    "selection_of_mask",
    "space_and_time",
]
