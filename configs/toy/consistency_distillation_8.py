"""Toy consistency distillation to sampling in 8 steps.

Hardware: a laptop's CPU (2 cores). After configs/toy/consistency_distillation.py:

    python -m lcv_jax.train configs/toy/consistency_distillation_8.py
"""

from configs.toy.common import OUT
from configs.toy.consistency_distillation import consistency
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """From the student of twice the steps."""
    start = OUT / "consistency_distillation" / "weights" / "adapters" / "cfg_step_lora"
    return consistency("consistency_distillation_8", num_steps=8, teacher_steps=4, start=str(start))
