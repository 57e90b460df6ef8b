"""Toy GRPO from one reward that is easy to hack: what goes wrong without the others.

Hardware: a laptop's CPU (2 cores). After configs/toy/sft.py:

    python -m lcv_jax.train configs/toy/grpo_hackable.py
"""

from configs.toy.grpo import readers, with_rewards
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """Neighbouring pixels' contrast alone."""
    return with_rewards("grpo_hackable", readers(hackable=True))
