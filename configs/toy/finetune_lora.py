"""Toy fine-tuning on your own clips: an adapter of the small model for a style that it has never seen.

Hardware: a laptop's CPU (2 cores). After `bash examples/finetune.sh`, which makes clips and encodes them:

    python -m lcv_jax.train configs/toy/finetune_lora.py
"""

import dataclasses
from pathlib import Path

from configs.toy.common import PROMPTS, stage, with_data
from lcv_jax.data.config import TaskShares
from lcv_jax.training.config import AdapterConfig, CheckpointsConfig, OptimizerConfig, TrainConfig, ValidationConfig

STEPS = 200
OUT = Path("outputs/finetune")


def get_config() -> TrainConfig:
    """A twin of configs/finetune_lora.py."""
    cfg = stage("finetune", after="sft", tasks=TaskShares(t2v=1.0), steps=STEPS, learning_rate=2e-3, batch_size=8)
    return dataclasses.replace(
        with_data(cfg, path=OUT / "encoded", held_out=0.1),
        run=OUT / "run",
        checkpoint=OUT / "weights",
        adapter=AdapterConfig(name="style", rank=16, alpha=16.0),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=10, decay_steps=STEPS, ema_decay=0.95),
        checkpoints=CheckpointsConfig(every=50),
        samples=dataclasses.replace(cfg.samples, every=100, prompts=PROMPTS[:2]),
        validation=ValidationConfig(every=50),
    )
