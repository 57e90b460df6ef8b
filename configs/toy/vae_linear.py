r"""Toy autoencoder of the world and of films: what resamples, alone.

Hardware: a laptop's CPU (2 cores). After the clips of examples/real_clips.py and of the world in one manifest, as
examples/toy_real.sh joins them:

    python -m lcv_jax.toy.start outputs/toy/components --clips outputs/toy/films_and_world.jsonl
    python -m lcv_jax.train configs/toy/vae_linear.py
"""

from pathlib import Path

from lcv_jax.data.config import DataConfig
from lcv_jax.objectives.autoencoder import Autoencoder
from lcv_jax.training.config import CheckpointsConfig, LoggingConfig, OptimizerConfig, SamplesConfig, TrainConfig

STEPS = 1600


def get_config() -> TrainConfig:
    """Squared errors alone, which least squares began with."""
    return TrainConfig(
        run=Path("outputs/toy/vae_linear"),
        checkpoint=Path("outputs/toy/components"),
        objective=Autoencoder(
            branches=False, charbonnier_width=4.0, difference_weight=0.0, num_scales=1, kl_weight=3e-6
        ),
        data=DataConfig(
            path=Path("outputs/toy/films_and_world.jsonl"), mode="autoencoder", sizes=((9, 32, 32),), fps=8.0
        ),
        steps=STEPS,
        batch_size=8,
        dtype="float32",
        optimizer=OptimizerConfig(
            learning_rate=1e-3, warmup_steps=30, decay_steps=STEPS, weight_decay=0.0, ema_decay=0.99
        ),
        checkpoints=CheckpointsConfig(every=400),
        logging=LoggingConfig(every=25),
        samples=SamplesConfig(every=800, prompts=("",) * 4, num_frames=17, size=(64, 64)),
    )
