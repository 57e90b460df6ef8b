r"""Toy refinement expert, an adapter for 128 x 128 x 33, with dense attention first.

Hardware: a laptop's CPU (2 cores). After configs/toy/consistency_distillation.py, whose adapter comes
along, with larger clips of other scenes:

    python -m lcv_jax.toy.make outputs/toy/large --num-clips 300 --height 128 --width 128 --num-frames 33 --fps 16 \
      --rough-share 0 --seed 1
    python -m lcv_jax.encode outputs/toy/large/manifest.jsonl outputs/toy/vae_3/weights outputs/toy/encoded_large \
      --sizes 33,128,128 --fps 16 --refine 64,64,8 --refine-from autoencoded

    python -m lcv_jax.train configs/toy/refinement_dense.py
"""

import dataclasses

from configs.toy.common import OUT, stage, with_data
from lcv_jax.config import BlockSparseConfig
from lcv_jax.data.config import TaskShares
from lcv_jax.objectives.refinement import Refinement
from lcv_jax.toy.sizes import SIZES
from lcv_jax.training.config import AdapterConfig, TrainConfig


def get_config() -> TrainConfig:
    """Of the fine-tuned model."""
    return refinement("refinement_dense", after="consistency_distillation", start=None, sparse=None, steps=2000)


def refinement(
    name: str, *, after: str, start: str | None, sparse: BlockSparseConfig | None, steps: int
) -> TrainConfig:
    """Both stages differ in attention alone."""
    cfg = stage(
        name,
        after=after,
        tasks=TaskShares(t2v=0.0, refine=1.0),
        steps=steps,
        learning_rate=1e-3,
        batch_size=4,
        objective=Refinement(t_thresh=SIZES["small"].scheduler.t_thresh),
    )
    cfg = dataclasses.replace(
        cfg,
        adapter=AdapterConfig(name="refinement_lora", rank=64, alpha=32.0, start=start),
        sparse=sparse,
        optimizer=dataclasses.replace(cfg.optimizer, warmup_steps=50, decay_steps=steps, ema_decay=0.995),
        samples=dataclasses.replace(cfg.samples, every=None),
    )
    return with_data(cfg, path=OUT / "encoded_large")
