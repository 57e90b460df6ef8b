"""What the judges of the report share: VideoReward's published settings of training (arXiv 2501.13918)."""

from pathlib import Path

from lcv_jax.data.preferences import PreferencesConfig
from lcv_jax.objectives.preferences import PairPreference, RatingRegression
from lcv_jax.training.config import (
    AdapterConfig,
    CheckpointsConfig,
    OptimizerConfig,
    TrainConfig,
    ValidationConfig,
)

OUT, DATA = Path("outputs/judges"), Path("data/judges")
STEPS, BATCH = 10_000, 32


def judge(name: str, *, objective: PairPreference | RatingRegression, data: PreferencesConfig) -> TrainConfig:
    """LoRA on the text model, the rest but the embedding table in full, one rate for all after a short warm-up."""
    return TrainConfig(
        run=OUT / name,
        checkpoint=Path("judges/videoreward"),
        objective=objective,
        data=data,
        steps=STEPS,
        batch_size=BATCH,
        remat="full",
        adapter=AdapterConfig(name=name, rank=64, alpha=128.0),
        optimizer=OptimizerConfig(
            learning_rate=2e-6,
            warmup_steps=STEPS // 20,
            b2=0.999,
            weight_decay=0.0,
            ema_decay=None,
            accumulation=2,
        ),
        checkpoints=CheckpointsConfig(every=500),
        validation=ValidationConfig(every=250, batches=16),
    )
