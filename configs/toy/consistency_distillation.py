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
    return consistency("consistency_distillation", num_steps=16, teacher_steps=4, start="cfg_step_lora")


def consistency(name: str, *, num_steps: int, teacher_steps: int, start: str) -> TrainConfig:
    """The teacher is always the CFG-distilled adapter."""
    cfg = cfg_distillation()
    assert cfg.adapter is not None
    return dataclasses.replace(
        cfg,
        run=OUT / name,
        checkpoint=OUT / "cfg_distillation" / "weights",
        objective=ConsistencyDistillation(num_steps=num_steps, shift=SHIFT, teacher_steps=teacher_steps),
        adapter=dataclasses.replace(cfg.adapter, start=start, teacher="cfg_step_lora"),
        steps=200,
        optimizer=dataclasses.replace(cfg.optimizer, learning_rate=2e-4, warmup_steps=30, ema_decay=0.98),
        samples=dataclasses.replace(cfg.samples, num_steps=num_steps),
    )
