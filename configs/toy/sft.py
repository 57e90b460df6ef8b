"""Toy fine-tuning on the clean clips, each weighted by how rare its kind is.

Hardware: a laptop's CPU (2 cores). After configs/toy/pretrain_3.py:

    python -m lcv_jax.train configs/toy/sft.py
"""

from configs.toy.common import stage, with_data
from lcv_jax.data.config import TaskShares
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """The column of lcv_jax.toy.make: 0 for clips that are filmed badly."""
    cfg = stage(
        "sft",
        after="pretrain_3",
        tasks=TaskShares(t2i=0.1, t2v=0.5, i2v=0.2, vc=0.2),
        steps=1500,
        learning_rate=2e-4,
    )
    return with_data(cfg, weight_column="weight")
