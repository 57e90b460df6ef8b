"""A tiny captioner of the procedural world: its second stage, sixteen frames of each clip.

Hardware: a laptop (10 minutes on two cores). After configs/toy/captioner_glances.py:

    python -m lcv_jax.toy.make outputs/captioner/clips --num-clips 4000 --captions plain
    python -m lcv_jax.toy.make outputs/captioner/held_out --num-clips 200 --held-out --captions plain
    python -m lcv_jax.train configs/toy/captioner.py
"""

import dataclasses

from configs.toy.captioner_glances import OUT
from configs.toy.captioner_glances import get_config as of_glances
from lcv_jax.captioning.pairs import CaptionsConfig
from lcv_jax.toy.qwen2_vl import SEEN_FRAMES
from lcv_jax.training.config import TrainConfig

STEPS = 300


def get_config() -> TrainConfig:
    """Half of the clips of a batch of glances, each with eight times the tokens."""
    cfg = of_glances()
    assert isinstance(cfg.data, CaptionsConfig)
    return dataclasses.replace(
        cfg,
        run=OUT / "run",
        checkpoint=OUT / "glances_run" / "weights",
        data=dataclasses.replace(
            cfg.data,
            path=OUT / "clips" / "manifest.jsonl",
            views=dataclasses.replace(cfg.data.views, num_frames=SEEN_FRAMES),
        ),
        steps=STEPS,
        batch_size=32,
        optimizer=dataclasses.replace(cfg.optimizer, decay_steps=500),
        validation=dataclasses.replace(cfg.validation, path=OUT / "held_out" / "manifest.jsonl"),
    )
