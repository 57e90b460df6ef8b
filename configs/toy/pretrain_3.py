"""Toy pretraining 3, all four tasks: text to image and to video, image to video, continuation.

Hardware: a laptop's CPU (2 cores). After configs/toy/pretrain_2.py:

    python -m lcv_jax.train configs/toy/pretrain_3.py
"""

from configs.toy.common import stage
from lcv_jax.data.config import TaskShares
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """Continuation sees its condition frames through noise of their own levels, against drift."""
    return stage(
        "pretrain_3",
        after="pretrain_2",
        tasks=TaskShares(t2i=0.1, t2v=0.5, i2v=0.2, vc=0.2),
        steps=1200,
        learning_rate=6e-4,
    )
