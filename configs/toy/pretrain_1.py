"""Toy pretraining 1, text to image: what colours, shapes and backgrounds are, from random weights.

Hardware: a laptop's CPU (2 cores). Before it, the autoencoder (configs/toy/vae_1.py to vae_3.py), and with it

    python -m lcv_jax.encode outputs/toy/clips/manifest.jsonl outputs/toy/vae_3/weights outputs/toy/encoded \
      --sizes 17,64,64 --fps 8 --images-from-clips 1

    python -m lcv_jax.train configs/toy/pretrain_1.py
"""

import dataclasses

from configs.toy.common import stage
from lcv_jax.data.config import TaskShares
from lcv_jax.training.config import SamplesConfig, TrainConfig


def get_config() -> TrainConfig:
    """A fifth of a clip's tokens, so that a step is cheap."""
    cfg = stage(
        "pretrain_1", after="vae_3", tasks=TaskShares(t2i=1.0, t2v=0.0), steps=3000, learning_rate=1.5e-3, batch_size=32
    )
    samples: SamplesConfig = dataclasses.replace(cfg.samples, num_frames=1)
    return dataclasses.replace(cfg, from_scratch=True, samples=samples)
