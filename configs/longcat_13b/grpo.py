"""Multi-reward GRPO of text to video, 480p and 720p x 93 (report, tables 5 and 9), an adapter of the fine-tuned model.

Hardware: 32 x H200 (141 GB), 4 hosts of 8. Before it, fine-tuning, captions, and the released reward models, converted
to judges/hpsv3 and judges/videoreward (docs/judges.md). The rewards: HPSv3 with a fixed prompt over all frames and with
the caption over the best 30 %, VideoReward's motion quality on grayscale video, and its text alignment. They score in
the training processes, each its own videos on its own GPUs. docs/grpo.md has servers, for rewards that run elsewhere.

    python -m lcv_jax.train configs/longcat_13b/grpo.py
"""

import dataclasses
from pathlib import Path

from configs.longcat_13b.published import DATA, VIDEO, adapter, sizes, stage, weights_of
from lcv_jax.data.prompts import PromptsConfig
from lcv_jax.objectives.grpo import GRPO
from lcv_jax.rewards.config import RewardsConfig, RewardSource
from lcv_jax.training.config import TrainConfig
from lcv_jax.training.rollout_config import RolloutConfig

JUDGES = Path("judges")
"""The released reward models, converted (docs/judges.md)."""


def judge(kind: str, *names: str) -> RewardSource:
    """A reward model in this process, whole on each of its devices."""
    return RewardSource(
        factory=f"lcv_jax.rewards.judge_rewards:{kind}",
        options=(("folder", str(JUDGES / kind)), ("devices", "local"), ("dtype", "bfloat16")),
        weights=tuple((name, 1.0) for name in names),
    )


REWARDS = RewardsConfig(sources=(judge("hpsv3", "hpsv3_general", "hpsv3_percentile"), judge("videoreward", "mq", "ta")))


def get_config() -> TrainConfig:
    """64 prompts in groups of 4 and one update of all 256 videos; each 8 prompts have a critical step of their own."""
    cfg = stage(
        "grpo",
        checkpoint=weights_of("sft"),
        objective=GRPO(guidance_scale=4.0, kl_weight=3e-4),
        data=PromptsConfig(path=DATA / "captions.txt", sizes=sizes("480p", "720p", num_frames=(VIDEO,))),
        rollout=RolloutConfig(
            rewards=REWARDS,
            prompts=64,
            group_size=4,
            prompts_at_once=8,
            num_steps=16,
            critical_steps=6,
            shift=12.0,
        ),
        adapter=adapter("grpo_lora"),
        learning_rate=1e-4,
        steps=500,
        batch_size=256,
        accumulation=32,
        seq=4,
    )
    return dataclasses.replace(cfg, optimizer=dataclasses.replace(cfg.optimizer, weight_decay=0.0, ema_decay=None))
