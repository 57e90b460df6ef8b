"""Toy autoencoder at a lower rate, on clips that are filmed well: edges get sharp.

Hardware: a laptop's CPU (2 cores). After configs/toy/vae_2.py:

    python -m lcv_jax.train configs/toy/vae_3.py
"""

import dataclasses

from configs.toy.vae_2 import get_config as vae_2
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """Grain is not worth the latents' while; the column is 0 where there is any."""
    cfg = vae_2()
    return dataclasses.replace(
        cfg,
        run=cfg.run.with_name("vae_3"),
        checkpoint=cfg.run / "weights",
        data=dataclasses.replace(cfg.data, weight_column="weight"),
        optimizer=dataclasses.replace(cfg.optimizer, learning_rate=4e-4),
    )
