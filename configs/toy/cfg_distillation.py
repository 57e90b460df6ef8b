"""Toy CFG distillation: an adapter that predicts in one pass what guidance makes of two.

Hardware: a laptop's CPU (2 cores). After configs/toy/sft.py:

    python -m lcv_jax.train configs/toy/cfg_distillation.py
"""

import dataclasses

from configs.toy.common import SHIFT, stage, with_data
from lcv_jax.data.config import TaskShares
from lcv_jax.objectives.cfg_distillation import CFGDistillation
from lcv_jax.training.config import AdapterConfig, TrainConfig


def get_config() -> TrainConfig:
    """Every sample with its caption: there is no guidance without."""
    cfg = stage(
        "cfg_distillation",
        after="sft",
        tasks=TaskShares(t2v=0.6, i2v=0.2, vc=0.2),
        steps=2000,
        learning_rate=2e-3,
        objective=CFGDistillation(shift=SHIFT),
    )
    cfg = dataclasses.replace(
        cfg,
        adapter=AdapterConfig(name="cfg_step_lora", rank=16, alpha=8.0),
        samples=dataclasses.replace(cfg.samples, distilled=True, num_steps=50),
    )
    return with_data(cfg, caption_dropout=0.0)
