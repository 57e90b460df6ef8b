"""A tiny judge of the procedural world: its last stage, ratings of visual quality, motion quality and text alignment.

Hardware: a laptop (8 minutes on a core). After configs/judges/toy_matches.py, with the manifest of
examples/toy_judge.sh: as many clips that were drawn as of the model that it will reward.

    python -m lcv_jax.train configs/judges/toy.py
"""

from pathlib import Path

from lcv_jax.data.preferences import PreferencesConfig
from lcv_jax.objectives.preferences import RatingRegression
from lcv_jax.training.config import CheckpointsConfig, LoggingConfig, OptimizerConfig, TrainConfig, ValidationConfig

OUT, STEPS = Path("outputs/judges"), 250
OF_MODEL = OUT / "toy_model" / "held_out_ratings.jsonl"


def get_config() -> TrainConfig:
    """All of a network of 1.7 million parameters but its table of words; validation is on the model's clips."""
    return TrainConfig(
        run=OUT / "toy",
        checkpoint=OUT / "toy_matches" / "weights",
        objective=RatingRegression(),
        data=PreferencesConfig(path=OUT / "ratings.jsonl"),
        steps=STEPS,
        batch_size=32,
        dtype="float32",
        remat="none",
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=50, decay_steps=STEPS, ema_decay=0.99),
        checkpoints=CheckpointsConfig(every=200),
        logging=LoggingConfig(every=20),
        validation=ValidationConfig(every=100, path=OF_MODEL, batches=10),
    )
