"""Distillation of guidance into an adapter, all four tasks at 480p and 720p x 93 (report, table 6).

Hardware: 32 x H200 (141 GB), 4 hosts of 8. Before it, fine-tuning, and its clips encoded with the general negative
prompt that is distilled (sft.py's command with `--negative-prompt`).

    python -m lcv_jax.train configs/longcat_13b/cfg_distillation.py

Attention is dense: blocks of four latent frames cannot hold the single condition frame of image to video. Without that
task, `--sparse.sparsity 0.875 --data.tasks.i2v 0` trains with sparse attention, on buckets of granularity 64.
"""

from configs.longcat_13b.published import distillation, weights_of
from lcv_jax.objectives.cfg_distillation import CFGDistillation
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """One clip at a time on each two GPUs."""
    return distillation(
        "cfg_distillation",
        checkpoint=weights_of("sft"),
        start=None,
        objective=CFGDistillation(guidance_scale=4.0, shift=12.0),
        steps=2_000,
        ema_decay=0.999,
    )
