"""A small Wan-type autoencoder of the procedural world, from random weights.

Hardware: a laptop's CPU (2 cores). Before it:

    python -m lcv_jax.toy.make outputs/toy/clips --num-clips 2500
    python -m lcv_jax.toy.start outputs/toy/start

    python -m lcv_jax.train configs/toy/vae_1.py
"""

from pathlib import Path

from lcv_jax.data.config import DataConfig
from lcv_jax.objectives.autoencoder import Autoencoder
from lcv_jax.training.config import CheckpointsConfig, LoggingConfig, OptimizerConfig, SamplesConfig, TrainConfig


def get_config() -> TrainConfig:
    """Crops of half the clips' sides, and short ones, so that a step is cheap."""
    return TrainConfig(
        run=Path("outputs/toy/vae_1"),
        checkpoint=Path("outputs/toy/start"),
        # Wider than its default: an object is a tenth of a clip, and under absolute errors it is left out at first.
        objective=Autoencoder(charbonnier_width=0.05, num_scales=4),
        data=DataConfig(
            path=Path("outputs/toy/clips/manifest.jsonl"), mode="autoencoder", sizes=((5, 32, 32),), fps=8.0
        ),
        steps=3000,
        batch_size=4,
        dtype="float32",
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=100, weight_decay=0.0, ema_decay=0.998),
        checkpoints=CheckpointsConfig(every=250),
        logging=LoggingConfig(every=25),
        samples=SamplesConfig(every=750, prompts=("",) * 4, num_frames=5, size=(32, 32)),
    )
