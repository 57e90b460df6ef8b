"""Toy fine-tuning for longer, on more clips: shapes get right, and prompts that change the motion are obeyed.

Hardware: a laptop's CPU (2 cores). After configs/toy/sft.py, with clips whose object moves in another way after nine
frames, which continuation learns from, as examples/toy.sh joins them:

    python -m lcv_jax.train configs/toy/sft_long.py
"""

import dataclasses

from configs.toy.common import OUT, stage, with_data
from lcv_jax.data.config import TaskShares
from lcv_jax.training.config import TrainConfig

STEPS = 7000


def get_config() -> TrainConfig:
    """At the rate of pretraining, which falls under a cosine."""
    cfg = stage(
        "sft_long",
        after="sft",
        tasks=TaskShares(t2i=0.05, t2v=0.5, i2v=0.15, vc=0.3),
        steps=STEPS,
        learning_rate=1e-3,
    )
    cfg = dataclasses.replace(cfg, optimizer=dataclasses.replace(cfg.optimizer, decay_steps=STEPS))
    return with_data(cfg, path=OUT / "encoded_long", weight_column="weight")
