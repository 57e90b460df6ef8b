"""Toy autoencoder of the world and of films: its decoder alone, for sharper pictures of the same latents.

Hardware: a laptop's CPU (2 cores). After configs/toy/vae_whole.py, beside what is trained on its latents:

    python -m lcv_jax.train configs/toy/vae_decoder.py
"""

import dataclasses

from configs.toy.vae_linear import get_config as vae_linear
from lcv_jax.objectives.autoencoder import Autoencoder
from lcv_jax.training.config import TrainConfig

STEPS = 1600


def get_config() -> TrainConfig:
    """Small errors count linearly, and edges twice."""
    cfg = vae_linear()
    return dataclasses.replace(
        cfg,
        run=cfg.run.with_name("vae_decoder"),
        checkpoint=cfg.run.with_name("vae_whole") / "weights",
        objective=Autoencoder(encoder=False, charbonnier_width=0.02, difference_weight=2.0, num_scales=4),
        steps=STEPS,
        optimizer=dataclasses.replace(cfg.optimizer, decay_steps=STEPS),
    )
