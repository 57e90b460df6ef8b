r"""Toy autoencoder of the world and of films: its decoder alone, which learns to show latents that are not quite right.

Hardware: a laptop's CPU (2 cores). After configs/toy/vae_whole.py, and the move of the model onto its latents:

    python -m lcv_jax.toy.move outputs/toy/sft_long/weights outputs/toy/vae_whole/weights outputs/toy/moved \
      --clips outputs/toy/clips/manifest.jsonl
    python -m lcv_jax.train configs/toy/vae_decoder.py
"""

import dataclasses

from configs.toy.vae_linear import get_config as vae_linear
from lcv_jax.objectives.autoencoder import Autoencoder
from lcv_jax.training.config import TrainConfig

STEPS = 2900


def get_config() -> TrainConfig:
    """Small errors count linearly, and edges twice."""
    cfg = vae_linear()
    return dataclasses.replace(
        cfg,
        run=cfg.run.with_name("vae_decoder"),
        checkpoint=cfg.run.with_name("moved"),
        objective=Autoencoder(
            encoder=False, latent_noise=0.5, charbonnier_width=0.02, difference_weight=2.0, num_scales=4
        ),
        steps=STEPS,
        optimizer=dataclasses.replace(cfg.optimizer, decay_steps=STEPS),
    )
