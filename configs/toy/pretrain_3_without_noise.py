"""Toy pretraining 3 with clean condition frames, to see what their noise is for.

Hardware: a laptop's CPU (2 cores). After configs/toy/pretrain_2.py:

    python -m lcv_jax.train configs/toy/pretrain_3_without_noise.py
"""

import dataclasses

from configs.toy.common import FLOW_MATCHING, OUT
from configs.toy.pretrain_3 import get_config as pretrain_3
from lcv_jax.objectives.drawing import ConditionNoise
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """All else is the same."""
    objective = dataclasses.replace(FLOW_MATCHING, condition=ConditionNoise(max_level=0.0))
    return dataclasses.replace(pretrain_3(), run=OUT / "pretrain_3_without_noise", objective=objective)
