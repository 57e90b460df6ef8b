r"""The small judge's first stage: it learns to compare what it sees with captions, right ones and wrong ones.

Hardware: a laptop (10 minutes on two cores). After configs/toy/captioner.py, whose towers it begins with:

    python -m lcv_jax.toy.judges outputs/judges/toy_data --num-captions 6000 --captioner outputs/captioner/run/weights
    python -m lcv_jax.toy.matches outputs/captioner/glances
    python -m lcv_jax.toy.matches outputs/captioner/held_out_glances --num-captions 1
    python -m lcv_jax.train configs/judges/toy_matches.py
"""

from pathlib import Path

from lcv_jax.data.preferences import PreferencesConfig
from lcv_jax.objectives.preferences import RatingRegression
from lcv_jax.training.config import CheckpointsConfig, LoggingConfig, OptimizerConfig, TrainConfig, ValidationConfig

OUT, GLANCES = Path("outputs/judges"), Path("outputs/captioner")
STEPS = 900


def get_config() -> TrainConfig:
    """All of a network of 1.7 million parameters but its table of words, on text alignment alone."""
    return TrainConfig(
        run=OUT / "toy_matches",
        checkpoint=OUT / "toy_data" / "start",
        objective=RatingRegression(),
        data=PreferencesConfig(path=GLANCES / "glances" / "matches.jsonl", dimensions=("TA",)),
        steps=STEPS,
        batch_size=64,
        dtype="float32",
        remat="none",
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=50, decay_steps=STEPS, ema_decay=0.99),
        checkpoints=CheckpointsConfig(every=100),
        logging=LoggingConfig(every=20),
        validation=ValidationConfig(every=100, path=GLANCES / "held_out_glances" / "matches.jsonl", batches=6),
    )
