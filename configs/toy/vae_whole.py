"""Toy autoencoder of the world and of films, all of it.

Hardware: a laptop's CPU (2 cores). After configs/toy/vae_linear.py:

    python -m lcv_jax.train configs/toy/vae_whole.py
"""

import dataclasses

from configs.toy.vae_linear import get_config as vae_linear
from lcv_jax.objectives.autoencoder import Autoencoder
from lcv_jax.training.config import TrainConfig

STEPS = 1200


def get_config() -> TrainConfig:
    """Edges count too: an object of the world is a tenth of a clip."""
    cfg = vae_linear()
    return dataclasses.replace(
        cfg,
        run=cfg.run.with_name("vae_whole"),
        checkpoint=cfg.run / "weights",
        objective=Autoencoder(charbonnier_width=0.05, num_scales=4),
        steps=STEPS,
        optimizer=dataclasses.replace(cfg.optimizer, decay_steps=STEPS),
    )
