r"""The tiny captioner's first stage: what two frames of a clip show, in captions that are always worded the same.

Hardware: a laptop (9 minutes on two cores, after 4 of `start`).

    python -m lcv_jax.toy.make outputs/captioner/glances --num-clips 12000 --num-frames 2 \
        --rough-share 0.1 --captions plain
    python -m lcv_jax.toy.make outputs/captioner/held_out_glances --num-clips 400 --num-frames 2 \
        --held-out --captions plain
    python -m lcv_jax.toy.captioner start outputs/captioner/start --tower-steps 1200
    python -m lcv_jax.train configs/toy/captioner_glances.py
"""

from pathlib import Path

from lcv_jax.captioning.pairs import CaptionsConfig
from lcv_jax.captioning.prompts import Views
from lcv_jax.data.patches import FRAMES as FRAMES_OF_A_PATCH
from lcv_jax.objectives.next_token import NextToken
from lcv_jax.toy.qwen2_vl import SEEN_SIDE
from lcv_jax.training.config import CheckpointsConfig, LoggingConfig, OptimizerConfig, TrainConfig, ValidationConfig

OUT, STEPS = Path("outputs/captioner"), 900


def get_config() -> TrainConfig:
    """All of a network of 1.7 million parameters, the vision tower too, on two frames of 84 x 84 pixels."""
    return TrainConfig(
        run=OUT / "glances_run",
        checkpoint=OUT / "start",
        objective=NextToken(),
        data=CaptionsConfig(
            path=OUT / "glances" / "manifest.jsonl",
            question="what moves",
            views=Views(num_frames=FRAMES_OF_A_PATCH, min_pixels=SEEN_SIDE**2, max_pixels=SEEN_SIDE**2),
        ),
        steps=STEPS,
        batch_size=64,
        train_vision=True,
        dtype="float32",
        remat="none",
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=50, decay_steps=STEPS, ema_decay=0.99),
        checkpoints=CheckpointsConfig(every=100),
        logging=LoggingConfig(every=20),
        validation=ValidationConfig(every=100, path=OUT / "held_out_glances" / "manifest.jsonl", batches=6),
    )
