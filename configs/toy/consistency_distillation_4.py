"""Toy consistency distillation to sampling in 4 steps.

Hardware: a laptop's CPU (2 cores). After configs/toy/consistency_distillation_8.py:

    python -m lcv_jax.train configs/toy/consistency_distillation_4.py
"""

from configs.toy.common import OUT
from configs.toy.consistency_distillation import consistency
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """From the student of twice the steps."""
    start = OUT / "consistency_distillation_8" / "weights" / "adapters" / "cfg_step_lora"
    return consistency("consistency_distillation_4", num_steps=4, teacher_steps=6, start=str(start))
