"""What tests of short training runs share."""

import json
from pathlib import Path
from typing import Any

from lcv_jax.training.config import (
    AdapterConfig,
    CheckpointsConfig,
    DevicesConfig,
    LoggingConfig,
    OptimizerConfig,
    TrainConfig,
    ValidationConfig,
)


def lines_of(run: Path) -> list[dict]:
    """What a run's metrics.jsonl says."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def adapter_run(**fields: Any) -> TrainConfig:
    """Four steps of an adapter of rank 2, on one device, validated and saved every two."""
    shared = {
        "steps": 4,
        "batch_size": 4,
        "dtype": "float32",
        "remat": "none",
        "adapter": AdapterConfig(name="small", rank=2, alpha=4.0),
        "optimizer": OptimizerConfig(learning_rate=1e-3, ema_decay=None),
        "checkpoints": CheckpointsConfig(every=2),
        "logging": LoggingConfig(every=1),
        "validation": ValidationConfig(every=2, batches=1),
        "devices": DevicesConfig(data=1),
    }
    return TrainConfig(**(shared | fields))
