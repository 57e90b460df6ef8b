"""Toy GRPO: the fine-tuned model learns to draw what captions ask for, from the readers' scores.

On images, clips of one frame: they cost a tenth of clips, and shape is what the model lacks most. Hardware: a laptop's
CPU (2 cores). After configs/toy/sft.py, with captions to train on:

    python -m lcv_jax.train configs/toy/grpo.py
"""

import dataclasses
from pathlib import Path

from configs.toy.common import OUT, SHIFT
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

PROMPTS = (
    "a red circle over a striped grey background",
    "a blue square in front of a plain brown wall",
    "a yellow triangle over a dotted slate background",
    "a green cross on a checked mauve background",
)


def get_config() -> TrainConfig:
    """24 rollouts of 256 images, learnt from in four batches; half of table 9's steps, and no guidance."""
    return TrainConfig(
        run=OUT / "grpo",
        checkpoint=OUT / "sft" / "weights",
        objective=GRPO(guidance_scale=1.0),
        data=PromptsConfig(path=Path("examples/image_captions.txt"), sizes=((1, 64, 64),), max_sequence_length=32),
        rollout=RolloutConfig(
            rewards=readers(alignment=1.0, sharpness=0.5),
            prompts=32,
            group_size=8,
            prompts_at_once=8,
            num_steps=8,
            critical_steps=3,
            shift=SHIFT,
            fps=8.0,
        ),
        steps=96,
        batch_size=64,
        dtype="float32",
        remat="none",
        adapter=AdapterConfig(name="grpo_lora", rank=16, alpha=8.0),
        optimizer=OptimizerConfig(learning_rate=3e-3, weight_decay=0.0, ema_decay=None),
        checkpoints=CheckpointsConfig(every=24),
        logging=LoggingConfig(every=1),
        samples=SamplesConfig(every=24, prompts=PROMPTS, num_frames=1, size=(64, 64), num_steps=8, guidance_scale=1.0),
    )


def readers(*, hackable: bool = False, **weights: float) -> RewardsConfig:
    """Rewards of the readers by name, and the one that is easy to hack."""
    sources: tuple[RewardSource, ...] = ()
    if weights:
        sources += (readers_source(**weights),)
    if hackable:
        factory = "lcv_jax.toy.rewards:hackable_sharpness"
        sources += (RewardSource(factory=factory, weights=(("hackable_sharpness", 1.0),)),)
    return RewardsConfig(sources=sources)


def readers_source(**weights: float) -> RewardSource:
    """The readers' rewards that have a weight; 0 is of one that is only logged."""
    options = (("names", ",".join(weights)),)
    return RewardSource(factory="lcv_jax.toy.rewards:read_clips", options=options, weights=tuple(weights.items()))


def with_rewards(name: str, rewards: RewardsConfig) -> TrainConfig:
    """The same as `get_config`, named and with other rewards."""
    cfg = get_config()
    assert cfg.rollout is not None
    return dataclasses.replace(cfg, run=OUT / name, rollout=dataclasses.replace(cfg.rollout, rewards=rewards))
