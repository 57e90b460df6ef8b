"""What a run starts from besides the weights that it trains: a pipeline, or what belongs to a judge or a captioner."""

from collections.abc import Callable, Mapping
from pathlib import Path

from jax.sharding import Mesh

from lcv_jax.config import DiTConfig, VAEConfig
from lcv_jax.pipeline import Pipeline, load_pipeline
from lcv_jax.training.captioners import CaptionerBase
from lcv_jax.training.config import TrainConfig
from lcv_jax.training.judges import JudgeBase
from lcv_jax.training.networks import Start
from lcv_jax.training.step import Learner
from lcv_jax.training.tuned import Tuned, TunedBase
from lcv_jax.training.tuned_start import TunedStart

Base = Pipeline | TunedBase
TUNED: Mapping[str, Callable[[Path], TunedBase]] = {"judge": JudgeBase.open, "captioner": CaptionerBase.open}
"""What opens the checkpoint of a network."""


def open_base(cfg: TrainConfig, mesh: Mesh) -> Base:
    """Opens the checkpoint of a config.

    Raises:
        ValueError: it has not what the config trains, or is damaged.
    """
    if cfg.network in TUNED:
        return TUNED[cfg.network](cfg.checkpoint)
    return load_pipeline(
        cfg.checkpoint,
        mesh=mesh,
        context=cfg.devices.attention(),
        keep_text_encoder="device" if cfg.rollout is None else "host",  # a rollout encodes its captions at once
    )


def network_of(cfg: TrainConfig, base: Base) -> DiTConfig | VAEConfig | Tuned:
    """What the trained network is made of, as `learner_of` takes it."""
    if not isinstance(base, Pipeline):
        return base.model(cfg)
    return base.vae.cfg if cfg.network == "vae" else base.dit_config


def start_of(cfg: TrainConfig, learner: Learner) -> Start:
    """What the trained network starts from."""
    return TunedStart(cfg, learner) if isinstance(learner.model, Tuned) else Start(cfg, learner)
