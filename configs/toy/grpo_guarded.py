"""Toy GRPO from the reward that is easy to hack, beside alignment.

Hardware: a laptop's CPU (2 cores). After configs/toy/sft.py:

    python -m lcv_jax.train configs/toy/grpo_guarded.py
"""

from configs.toy.grpo import readers, with_rewards
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """All weights 1, as the report's."""
    return with_rewards("grpo_guarded", readers(hackable=True, alignment=1.0))
