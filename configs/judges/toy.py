"""A tiny judge of the procedural world, on simulated ratings of visual quality, motion quality and text alignment.

Hardware: a laptop (35 minutes on two cores). After configs/judges/toy_matches.py:

    python -m lcv_jax.train configs/judges/toy.py
"""

from pathlib import Path

from lcv_jax.data.preferences import PreferencesConfig
from lcv_jax.objectives.preferences import RatingRegression
from lcv_jax.training.config import CheckpointsConfig, LoggingConfig, OptimizerConfig, TrainConfig, ValidationConfig

DATA = Path("outputs/judges/toy_data")


def get_config() -> TrainConfig:
    """All of a network of 1.7 million parameters but its table of words."""
    return TrainConfig(
        run=Path("outputs/judges/toy"),
        checkpoint=Path("outputs/judges/toy_matches/weights"),
        objective=RatingRegression(),
        data=PreferencesConfig(path=DATA / "ratings.jsonl"),
        steps=1500,
        batch_size=32,
        dtype="float32",
        remat="none",
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=50, decay_steps=1500, ema_decay=0.99),
        checkpoints=CheckpointsConfig(every=200),
        logging=LoggingConfig(every=20),
        validation=ValidationConfig(every=100, path=DATA / "held_out_ratings.jsonl", batches=10),
    )
