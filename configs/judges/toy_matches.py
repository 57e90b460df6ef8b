r"""The small judge's first stage: it learns to compare what it sees with captions, right ones and wrong ones.

Hardware: a laptop (10 minutes on two cores). After configs/toy/captioner.py, whose towers it begins with:

    python -m lcv_jax.toy.judges outputs/judges/toy_data --num-captions 6000 --captioner outputs/captioner/run/weights
    python -m lcv_jax.toy.matches outputs/captioner/glances
    python -m lcv_jax.toy.matches outputs/captioner/held_out_glances --num-captions 1
    python -m lcv_jax.train configs/judges/toy_matches.py
"""

import dataclasses
from pathlib import Path

from configs.judges.toy import DATA
from configs.judges.toy import get_config as of_ratings
from lcv_jax.data.preferences import PreferencesConfig
from lcv_jax.training.config import TrainConfig

GLANCES, STEPS = Path("outputs/captioner"), 900


def get_config() -> TrainConfig:
    """As toy.py, on text alignment alone and on twice the clips, which are glances."""
    cfg = of_ratings()
    return dataclasses.replace(
        cfg,
        run=Path("outputs/judges/toy_matches"),
        checkpoint=DATA / "start",
        data=PreferencesConfig(path=GLANCES / "glances" / "matches.jsonl", dimensions=("TA",)),
        steps=STEPS,
        batch_size=64,
        optimizer=dataclasses.replace(cfg.optimizer, decay_steps=STEPS),
        checkpoints=dataclasses.replace(cfg.checkpoints, every=100),
        validation=dataclasses.replace(cfg.validation, path=GLANCES / "held_out_glances" / "matches.jsonl", batches=6),
    )
