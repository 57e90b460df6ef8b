"""Toy GRPO on clips with a trained judge as the only reward: motion quality, text alignment and visual quality.

Hardware: a laptop's CPU (2 cores). After configs/toy/sft.py and the judge of configs/judges/toy.py:

    python -m lcv_jax.train configs/toy/grpo_judge.py

Clips have nine frames, as the chain's (docs/chain.md). The judge's motion quality is asked of grey clips, as the report
does; configs/judges/toy.py shows it clips in colour when it is trained.
"""

import dataclasses
from pathlib import Path

from configs.toy.common import OUT
from configs.toy.grpo_video import get_config as by_readers
from lcv_jax.rewards.config import RewardsConfig, RewardSource
from lcv_jax.training.config import TrainConfig

NAMES = ("mq", "ta", "vq")


def get_config() -> TrainConfig:
    """The rest is that of the readers' rewards."""
    cfg = by_readers()
    assert cfg.rollout is not None
    return dataclasses.replace(
        cfg,
        run=OUT / "grpo_judge",
        data=dataclasses.replace(cfg.data, sizes=((9, 64, 64),)),  # type: ignore[arg-type]
        rollout=dataclasses.replace(cfg.rollout, rewards=judge(Path("outputs/judges/toy/weights"))),
        samples=dataclasses.replace(cfg.samples, num_frames=9),
    )


def judge(folder: Path) -> RewardsConfig:
    """The dimensions of one judge, each counting the same."""
    source = RewardSource(
        factory="lcv_jax.rewards.judge_rewards:videoreward",
        options=(("folder", str(folder)), ("rewards", ",".join(NAMES))),
        weights=tuple((name, 1.0) for name in NAMES),
    )
    return RewardsConfig(sources=(source,))
