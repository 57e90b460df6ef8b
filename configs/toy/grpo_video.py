"""Toy GRPO on clips, from scores of their motion too.

Hardware: a laptop's CPU (2 cores). After configs/toy/sft.py:

    python -m lcv_jax.train configs/toy/grpo_video.py
"""

import dataclasses
from pathlib import Path

from configs.toy.common import OUT, PROMPTS
from configs.toy.grpo import get_config as of_images
from configs.toy.grpo import readers
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """Forty rollouts of 32 clips. Decoding is four fifths of them, so each is learnt from twice, in two batches."""
    cfg = of_images()
    assert cfg.rollout is not None
    return dataclasses.replace(
        cfg,
        run=OUT / "grpo_video",
        data=dataclasses.replace(cfg.data, path=Path("examples/captions.txt"), sizes=((17, 64, 64),)),  # type: ignore[arg-type]
        rollout=dataclasses.replace(
            cfg.rollout,
            rewards=readers(alignment=1.0, motion=1.0, sharpness=1.0),
            prompts=8,
            group_size=4,
            prompts_at_once=4,
            passes=2,
        ),
        steps=160,
        batch_size=16,
        optimizer=dataclasses.replace(cfg.optimizer, learning_rate=1e-3),
        samples=dataclasses.replace(cfg.samples, prompts=PROMPTS, num_frames=17),
    )
