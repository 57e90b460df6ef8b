"""The refinement expert, an adapter for 720p x 93 or 189, with 93.75 % sparse attention (report, table 7).

Hardware: 32 x H200 (141 GB), 4 hosts of 8. Before it, refinement_dense.py: its adapter is the start.

    python -m lcv_jax.train configs/longcat_13b/refinement_sparse.py
"""

from configs.longcat_13b.published import refinement, weights_of
from lcv_jax.config import BlockSparseConfig
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """The same, with attention to one block in sixteen."""
    return refinement(
        "refinement_sparse",
        checkpoint=weights_of("refinement_dense"),
        start="refinement_lora",
        sparse=BlockSparseConfig(sparsity=0.9375, chunk_3d_shape_q=(4, 4, 4), chunk_3d_shape_k=(4, 4, 4)),
    )
