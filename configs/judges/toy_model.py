"""The small judge's last stage: ratings of a model's clips beside drawn ones, for what it will reward is the model's.

Hardware: a laptop (10 minutes on two cores). After configs/judges/toy.py, with the manifest of examples/toy_judge.sh:

    python -m lcv_jax.train configs/judges/toy_model.py
"""

import dataclasses
from pathlib import Path

from configs.judges.toy import get_config as of_drawn
from lcv_jax.training.config import TrainConfig

BOTH, STEPS = Path("outputs/judges"), 500


def get_config() -> TrainConfig:
    """As toy.py, from its weights; validation is on the model's clips."""
    cfg = of_drawn()
    assert cfg.validation is not None
    return dataclasses.replace(
        cfg,
        run=Path("outputs/judges/toy_model_run"),
        checkpoint=cfg.run / "weights",
        data=dataclasses.replace(cfg.data, path=BOTH / "ratings.jsonl"),  # type: ignore[arg-type]
        steps=STEPS,
        optimizer=dataclasses.replace(cfg.optimizer, decay_steps=STEPS),
        validation=dataclasses.replace(cfg.validation, path=BOTH / "toy_model" / "held_out_ratings.jsonl"),
    )
