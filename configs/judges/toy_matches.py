r"""The small judge compares what it sees with captions, right ones and wrong ones, before it rates.

Hardware: a laptop (12 minutes on a core). Its tower has learnt to see, and stays as it is; examples/toy_judge.sh
has all commands, and makes one manifest of both:

    python -m lcv_jax.toy.tower outputs/judges/toy_data/start outputs/judges/toy_seeing --clips outputs/judges/toy_model
    python -m lcv_jax.toy.matches outputs/judges/glances
    python -m lcv_jax.toy.matches outputs/judges/toy_model
    python -m lcv_jax.train configs/judges/toy_matches.py
"""

import dataclasses

from configs.judges.toy import OUT
from configs.judges.toy import get_config as of_ratings
from lcv_jax.data.preferences import PreferencesConfig
from lcv_jax.training.config import TrainConfig

STEPS = 900


def get_config() -> TrainConfig:
    """As toy.py, on text alignment alone and on twice the clips, half of which are glances."""
    cfg = of_ratings()
    assert cfg.validation is not None
    return dataclasses.replace(
        cfg,
        run=OUT / "toy_matches",
        checkpoint=OUT / "toy_seeing",
        data=PreferencesConfig(path=OUT / "matches.jsonl", dimensions=("TA",)),
        steps=STEPS,
        batch_size=64,
        train_vision=False,
        optimizer=dataclasses.replace(cfg.optimizer, decay_steps=STEPS),
        checkpoints=dataclasses.replace(cfg.checkpoints, every=100),
        validation=dataclasses.replace(cfg.validation, batches=5),
    )
