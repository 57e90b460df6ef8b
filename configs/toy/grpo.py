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


def get_config() -> TrainConfig:
    """Forty rollouts of 32 videos, half the steps of table 9 and no guidance.

    Decoding is four fifths of a rollout here, so each is learnt from twice, in two batches.
    """
    return TrainConfig(
        run=OUT / "grpo",
        checkpoint=OUT / "sft" / "weights",
        objective=GRPO(guidance_scale=1.0),
        data=PromptsConfig(path=Path("examples/captions.txt"), sizes=((17, 64, 64),), max_sequence_length=32),
        rollout=RolloutConfig(
            rewards=readers(alignment=1.0, motion=1.0, sharpness=1.0),
            prompts=8,
            prompts_at_once=4,
            num_steps=8,
            critical_steps=3,
            passes=2,
            shift=SHIFT,
            fps=8.0,
        ),
        steps=160,
        batch_size=16,
        dtype="float32",
        remat="none",
        adapter=AdapterConfig(name="grpo_lora", rank=16, alpha=8.0),
        optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.0, ema_decay=None),
        checkpoints=CheckpointsConfig(every=40),
        logging=LoggingConfig(every=1),
        samples=SamplesConfig(every=40, prompts=PROMPTS, num_frames=17, size=(64, 64), num_steps=8, guidance_scale=1.0),
    )


def readers(*, hackable: bool = False, **weights: float) -> RewardsConfig:
    """Rewards of the readers by name, and the one that is easy to hack."""
    sources = (
        [RewardSource(factory="lcv_jax.toy.rewards:read_clips", weights=tuple(weights.items()))] if weights else []
    )
    if hackable:
        factory, weight = "lcv_jax.toy.rewards:hackable_sharpness", ("hackable_sharpness", 1.0)
        sources.append(RewardSource(factory=factory, weights=(weight,)))
    return RewardsConfig(sources=tuple(sources))


def with_rewards(name: str, rewards: RewardsConfig) -> TrainConfig:
    """The same as `get_config`, named and with other rewards."""
    cfg = get_config()
    assert cfg.rollout is not None
    return dataclasses.replace(cfg, run=OUT / name, rollout=dataclasses.replace(cfg.rollout, rewards=rewards))
