"""What a run starts from besides the weights that it trains: a pipeline, or a judge's settings and tokenizer."""

from jax.sharding import Mesh

from lcv_jax.config import DiTConfig, VAEConfig
from lcv_jax.pipeline import Pipeline, load_pipeline
from lcv_jax.training.config import TrainConfig
from lcv_jax.training.judge_start import JudgeStart
from lcv_jax.training.judges import JudgeBase
from lcv_jax.training.networks import Start
from lcv_jax.training.step import Learner

Base = Pipeline | JudgeBase


def open_base(cfg: TrainConfig, mesh: Mesh) -> Base:
    """Opens the checkpoint of a config.

    Raises:
        ValueError: it has not what the config trains, or is damaged.
    """
    if cfg.network == "judge":
        return JudgeBase.open(cfg.checkpoint)
    return load_pipeline(
        cfg.checkpoint,
        mesh=mesh,
        context=cfg.devices.attention(),
        keep_text_encoder="device" if cfg.rollout is None else "host",  # a rollout encodes its captions at once
    )


def network_of(cfg: TrainConfig, base: Base) -> DiTConfig | VAEConfig | JudgeBase:
    """What the trained network is made of, as `learner_of` takes it."""
    if isinstance(base, JudgeBase):
        return base
    return base.vae.cfg if cfg.network == "vae" else base.dit_config


def start_of(cfg: TrainConfig, learner: Learner) -> Start:
    """What the trained network starts from."""
    return JudgeStart(cfg, learner) if cfg.network == "judge" else Start(cfg, learner)
