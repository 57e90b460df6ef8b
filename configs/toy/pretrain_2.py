"""Toy pretraining 2, text to image and to video: how things move.

Hardware: a laptop's CPU (2 cores). After configs/toy/pretrain_1.py:

    python -m lcv_jax.train configs/toy/pretrain_2.py
"""

from configs.toy.common import stage
from lcv_jax.data.config import TaskShares
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """Mostly videos."""
    return stage(
        "pretrain_2", after="pretrain_1", tasks=TaskShares(t2i=0.15, t2v=0.85), steps=12_000, learning_rate=1e-3
    )
