"""Toy GRPO on clips from the scores of the small judge, which has seen simulated ratings and never the truth.

Hardware: a laptop's CPU (2 cores). After configs/toy/sft.py and examples/toy_judge.sh, which trains the judge:

    python -m lcv_jax.train configs/toy/grpo_judge.py
"""

import dataclasses

from configs.toy.common import OUT
from configs.toy.grpo_video import get_config as of_clips
from lcv_jax.rewards.config import RewardsConfig, RewardSource
from lcv_jax.training.config import TrainConfig

FRAMES = 9
"""Of a clip, as few as show how it moves: decoding is most of a rollout."""


def get_config() -> TrainConfig:
    """The rollouts of grpo_video.py, half as long; motion is judged without colour, as in the report."""
    return with_judge("grpo_judge", vq=1.0, mq=1.0, ta=1.0)


def with_judge(name: str, folder: str = "outputs/judges/toy/weights", **weights: float) -> TrainConfig:
    """The same for some of the judge's dimensions, or for several judges (commas between their folders)."""
    cfg = of_clips()
    assert cfg.rollout is not None
    assert cfg.samples is not None
    source = RewardSource(
        factory="lcv_jax.rewards.judge_rewards:videoreward",
        options=(("folder", folder), ("rewards", ",".join(weights)), ("batch_size", 16)),
        weights=tuple(weights.items()),
    )
    return dataclasses.replace(
        cfg,
        run=OUT / name,
        data=dataclasses.replace(cfg.data, sizes=((FRAMES, 64, 64),)),  # type: ignore[arg-type]
        rollout=dataclasses.replace(cfg.rollout, rewards=RewardsConfig(sources=(source,))),
        samples=dataclasses.replace(cfg.samples, num_frames=FRAMES),
    )
