"""Distillation of 50 steps into 16, in the adapter that guidance was distilled into (report, table 6).

Hardware: 32 x H200 (141 GB), 4 hosts of 8. Before it, cfg_distillation.py: its adapter is both the teacher and the
start.

    python -m lcv_jax.train configs/longcat_13b/consistency_distillation.py

Attention is dense, for the reason that cfg_distillation.py gives.
"""

from configs.longcat_13b.published import distillation, weights_of
from lcv_jax.objectives.consistency_distillation import ConsistencyDistillation
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """One clip at a time on each two GPUs. The average is a target here, and follows within tens of steps."""
    return distillation(
        "consistency_distillation",
        checkpoint=weights_of("cfg_distillation"),
        start="cfg_step_lora",
        objective=ConsistencyDistillation(num_steps=16, shift=12.0),
        steps=3_000,
        ema_decay=0.95,
    )
