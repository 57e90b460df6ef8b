"""Toy autoencoder on whole lengths: causal convolutions see more of the past in a longer clip than in five frames.

Hardware: a laptop's CPU (2 cores). After configs/toy/vae_1.py, which alone loses colours after a second:

    python -m lcv_jax.train configs/toy/vae_2.py
"""

import dataclasses

from configs.toy.vae_1 import get_config as vae_1
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """Crops of 17 frames."""
    cfg = vae_1()
    return dataclasses.replace(
        cfg,
        run=cfg.run.with_name("vae_2"),
        checkpoint=cfg.run / "weights",
        data=dataclasses.replace(cfg.data, sizes=((17, 32, 32),)),
        steps=1500,
        batch_size=2,
        samples=dataclasses.replace(cfg.samples, every=500, prompts=("",) * 2),
    )
