r"""Toy autoencoder that learns real video too, while its latents of the procedural world stay as they are.

Hardware: a laptop's CPU (2 cores). After configs/toy/vae_3.py, with clips of examples/real_clips.py and of the world in
one manifest, whose column `keep` is 1 for the latter, as examples/toy_real.sh joins them:

    python -m lcv_jax.train configs/toy/vae_real.py
"""

import dataclasses
from pathlib import Path

from configs.toy.vae_3 import get_config as vae_3
from lcv_jax.objectives.autoencoder import Autoencoder
from lcv_jax.training.config import TrainConfig


def get_config() -> TrainConfig:
    """The transformers that were trained on those latents go on working."""
    cfg = vae_3()
    return dataclasses.replace(
        cfg,
        run=cfg.run.with_name("vae_real"),
        checkpoint=cfg.run / "weights",
        objective=Autoencoder(charbonnier_width=0.05, num_scales=4, keep_weight=4.0),
        data=dataclasses.replace(
            cfg.data, path=Path("outputs/toy/real_and_toy.jsonl"), weight_column=None, keep_column="keep"
        ),
        steps=2400,
        batch_size=2,
        optimizer=dataclasses.replace(cfg.optimizer, learning_rate=3e-4, decay_steps=2400),
    )
