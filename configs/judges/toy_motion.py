"""A tiny judge of motion quality, on grey videos; `--data.no-grayscale` shows it colours (figure 20 of the report).

Hardware: a laptop.

    python -m lcv_jax.toy.judges outputs/judges/toy_tinted --tinted --captioner outputs/captioner/run/weights
    python -m lcv_jax.train configs/judges/toy_motion.py
"""

import dataclasses
from pathlib import Path

from configs.judges.toy import get_config as of_all
from lcv_jax.data.preferences import PreferencesConfig
from lcv_jax.training.config import TrainConfig

DATA = Path("outputs/judges/toy_tinted")


def get_config() -> TrainConfig:
    """One dimension: enough to see which judge goes by the tint."""
    cfg = of_all()
    return dataclasses.replace(
        cfg,
        run=Path("outputs/judges/toy_motion"),
        checkpoint=DATA / "start",
        data=PreferencesConfig(path=DATA / "ratings.jsonl", dimensions=("MQ",), grayscale=True),
        steps=200,
        optimizer=dataclasses.replace(cfg.optimizer, warmup_steps=20, decay_steps=200, ema_decay=0.95),
        checkpoints=dataclasses.replace(cfg.checkpoints, every=100),
        validation=dataclasses.replace(cfg.validation, every=20, path=DATA / "held_out_ratings.jsonl", batches=8),
    )
