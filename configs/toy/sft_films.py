r"""Toy fine-tuning on the latents of the autoencoder that knows films, from the model of the earlier ones.

Hardware: a laptop's CPU (2 cores). After configs/toy/vae_decoder.py, with the clips of configs/toy/sft_long.py encoded
again:

    python -m lcv_jax.encode outputs/toy/more_and_changing.jsonl outputs/toy/vae_decoder/weights \
      outputs/toy/encoded_films --sizes 17,64,64 --fps 8 --images-from-clips 1
    python -m lcv_jax.train configs/toy/sft_films.py
"""

import dataclasses

from configs.toy.common import OUT
from configs.toy.sft_long import get_config as sft_long
from lcv_jax.data.config import TaskShares
from lcv_jax.training.config import TrainConfig

STEPS = 13_500


def get_config() -> TrainConfig:
    """More continuation than before: a third of it is of clips that change."""
    cfg = sft_long()
    return dataclasses.replace(
        cfg,
        run=OUT / "sft_films",
        checkpoint=OUT / "vae_decoder" / "weights",
        data=dataclasses.replace(
            cfg.data, path=OUT / "encoded_films", tasks=TaskShares(t2i=0.05, t2v=0.45, i2v=0.1, vc=0.4)
        ),
        steps=STEPS,
        optimizer=dataclasses.replace(cfg.optimizer, decay_steps=STEPS),
    )
