"""Toy GRPO on clips from the scores of the small judge, which has seen simulated ratings and never the truth.

Hardware: a laptop's CPU (2 cores). After configs/toy/sft.py, or with the shipped model at outputs/toy/sft/weights:

    python -m lcv_jax.train configs/toy/grpo_judge.py
"""

import dataclasses
from pathlib import Path

from configs.toy.common import OUT, PROMPTS
from configs.toy.grpo import get_config as of_images
from configs.toy.grpo import readers_source
from lcv_jax.rewards.config import RewardsConfig, RewardSource
from lcv_jax.training.config import TrainConfig

FRAMES = 9
"""Of a clip, as few as show how it moves: decoding is most of a rollout."""
CAPTIONS, JUDGE = Path("examples/captions.txt"), "examples/toy_judge"


def get_config() -> TrainConfig:
    """24 rollouts of 128 clips, learnt from in four batches; motion is judged without colour, as in the report."""
    return with_judge("grpo_judge", vq=1.0, mq=1.0, ta=1.0)


def with_judge(name: str, folder: str = JUDGE, **weights: float) -> TrainConfig:
    """The same for some of the judge's dimensions, or for several judges (commas between their folders).

    The readers' scores, which are the truth of that world, are logged beside the judge's and count nothing.
    """
    cfg = of_images()
    assert cfg.rollout is not None
    assert cfg.samples is not None
    judge = RewardSource(
        factory="lcv_jax.rewards.judge_rewards:videoreward",
        options=(("folder", folder), ("rewards", ",".join(weights)), ("batch_size", 16)),
        weights=tuple(weights.items()),
    )
    truth = readers_source(alignment=0.0, motion=0.0, sharpness=0.0)
    return dataclasses.replace(
        cfg,
        run=OUT / name,
        data=dataclasses.replace(cfg.data, path=CAPTIONS, sizes=((FRAMES, 64, 64),)),  # type: ignore[arg-type]
        rollout=dataclasses.replace(
            cfg.rollout, rewards=RewardsConfig(sources=(judge, truth)), prompts=16, prompts_at_once=4
        ),
        batch_size=32,
        samples=dataclasses.replace(cfg.samples, prompts=PROMPTS, num_frames=FRAMES),
    )
