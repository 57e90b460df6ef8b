"""A tiny captioner of the procedural world, from random weights.

Hardware: a laptop.

    python -m lcv_jax.toy.make outputs/captioner/clips --num-clips 3000
    python -m lcv_jax.toy.make outputs/captioner/held_out --num-clips 200 --held-out
    python -m lcv_jax.toy.captioner start outputs/captioner/start
    python -m lcv_jax.train configs/toy/captioner.py
"""

from pathlib import Path

from lcv_jax.captioning.pairs import CaptionsConfig
from lcv_jax.captioning.prompts import Views
from lcv_jax.objectives.next_token import NextToken
from lcv_jax.toy.qwen2_vl import SEEN_FRAMES, SEEN_SIDE
from lcv_jax.training.config import CheckpointsConfig, LoggingConfig, OptimizerConfig, TrainConfig, ValidationConfig

OUT, STEPS = Path("outputs/captioner"), 700


def get_config() -> TrainConfig:
    """All of a network of 1.3 million parameters, the vision tower too, on clips of 8 frames of 56 x 56 pixels."""
    return TrainConfig(
        run=OUT / "run",
        checkpoint=OUT / "start",
        objective=NextToken(),
        data=CaptionsConfig(
            path=OUT / "clips" / "manifest.jsonl",
            question="what moves",
            views=Views(num_frames=SEEN_FRAMES, min_pixels=SEEN_SIDE**2, max_pixels=SEEN_SIDE**2),
        ),
        steps=STEPS,
        batch_size=32,
        train_vision=True,
        dtype="float32",
        remat="none",
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=50, decay_steps=STEPS, ema_decay=0.99),
        checkpoints=CheckpointsConfig(every=100),
        logging=LoggingConfig(every=20),
        validation=ValidationConfig(every=100, path=OUT / "held_out" / "manifest.jsonl", batches=6),
    )
