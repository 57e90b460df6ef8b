"""Toy GRPO: the fine-tuned model learns to follow captions more closely, from the readers' scores.

Hardware: a laptop's CPU (2 cores). After configs/toy/sft.py, with captions to train on:

    python -m lcv_jax.train configs/toy/grpo.py
"""

import dataclasses
from pathlib import Path

from configs.toy.common import OUT, PROMPTS, SHIFT
from lcv_jax.data.prompts import PromptsConfig
from lcv_jax.objectives.grpo import GRPO
from lcv_jax.rewards.config import RewardsConfig, RewardSource
from lcv_jax.training.config import (
    AdapterConfig,
    CheckpointsConfig,
    LoggingConfig,
    OptimizerConfig,
    SamplesConfig,
    TrainConfig,
)
from lcv_jax.training.rollout_config import RolloutConfig

REWARDS = RewardsConfig(
    sources=(
        RewardSource(factory="lcv_jax.toy.rewards:alignment", weights=(("alignment", 1.0),)),
        RewardSource(factory="lcv_jax.toy.rewards:motion", weights=(("motion", 1.0),)),
        RewardSource(factory="lcv_jax.toy.rewards:sharpness", weights=(("sharpness", 1.0),)),
    )
)


def get_config() -> TrainConfig:
    """Table 9's, with fewer prompts a rollout."""
    return TrainConfig(
        run=OUT / "grpo",
        checkpoint=OUT / "sft" / "weights",
        objective=GRPO(),
        data=PromptsConfig(path=Path("examples/captions.txt"), sizes=((17, 64, 64),), max_sequence_length=32),
        rollout=RolloutConfig(rewards=REWARDS, prompts=16, prompts_at_once=4, shift=SHIFT, fps=8.0),
        steps=100,
        batch_size=64,
        dtype="float32",
        remat="none",
        adapter=AdapterConfig(name="grpo_lora", rank=16, alpha=8.0),
        optimizer=OptimizerConfig(learning_rate=1e-4, weight_decay=0.0, ema_decay=None),
        checkpoints=CheckpointsConfig(every=10),
        logging=LoggingConfig(every=1),
        samples=SamplesConfig(every=20, prompts=PROMPTS, num_frames=17, size=(64, 64), num_steps=16),
    )


def with_rewards(cfg: TrainConfig, rewards: RewardsConfig) -> TrainConfig:
    """The same with other rewards."""
    assert cfg.rollout is not None
    return dataclasses.replace(cfg, rollout=dataclasses.replace(cfg.rollout, rewards=rewards))
