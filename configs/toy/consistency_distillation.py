"""Toy consistency distillation of the CFG-distilled adapter, to sampling in 16 steps.

Hardware: a laptop's CPU (2 cores). After configs/toy/cfg_distillation.py:

    python -m lcv_jax.train configs/toy/consistency_distillation.py
"""

import dataclasses

from configs.toy.cfg_distillation import get_config as cfg_distillation
from configs.toy.common import OUT, SHIFT
from lcv_jax.objectives.consistency_distillation import ConsistencyDistillation
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """Four teacher steps reach every phase's end: the target is the teacher's own."""
    cfg = cfg_distillation()
    assert cfg.adapter is not None
    return dataclasses.replace(
        cfg,
        run=OUT / "consistency_distillation",
        checkpoint=OUT / "cfg_distillation" / "weights",
        objective=ConsistencyDistillation(num_steps=16, shift=SHIFT, teacher_steps=4),
        adapter=dataclasses.replace(cfg.adapter, start="cfg_step_lora"),
        optimizer=dataclasses.replace(cfg.optimizer, learning_rate=2e-4),
        samples=dataclasses.replace(cfg.samples, num_steps=16),
    )
