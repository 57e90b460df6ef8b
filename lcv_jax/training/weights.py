"""A run's trained weights as a folder to generate from, and to train on from.

A run keeps two sets of weights: the last step's ("raw") and their exponential moving average ("ema").
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Params
from lcv_jax.checkpoint.save import save_trained
from lcv_jax.config import PublishedConfig, VAEConfig
from lcv_jax.models.vae import WanVAE
from lcv_jax.objectives.refinement import Refinement
from lcv_jax.training.config import TrainConfig
from lcv_jax.training.state import Frozen, TrainState, with_scale
from lcv_jax.training.step import Learner
from lcv_jax.training.tuned import Tuned

WhichWeights = Literal["ema", "raw"]


def kept_weights(cfg: TrainConfig) -> tuple[WhichWeights, ...]:
    """The sets of weights that a run has; the first is the one to use by default."""
    return ("raw",) if cfg.optimizer.ema_decay is None else ("ema", "raw")


def choose(state: TrainState, which: WhichWeights) -> Params:
    """One set of weights of a train state.

    Raises:
        ValueError: the EMA is chosen, and the run has none.
    """
    if which == "ema" and state.ema is None:
        raise ValueError("the run has no EMA weights: its optimizer.ema_decay is None; choose raw")
    return state.params if which == "raw" else state.ema


def save_weights(
    cfg: TrainConfig,
    learner: Learner,
    dest: Path,
    state: TrainState,
    frozen: Frozen,
    *,
    which: WhichWeights,
    dtype: str | None = None,
    configs: dict[str, PublishedConfig] | None = None,
) -> None:
    """Writes trained weights, with everything else of the checkpoint that training started from.

    Where refinement was trained, the folder's scheduler says from which noise it starts.

    Args:
        cfg, learner: of the run.
        dest: the folder; must not exist.
        which: of the two sets; stored in the folder's provenance.
        dtype: of what was trained; None: float32, as it was trained.
        configs: of networks, where they are not the checkpoint's.
    """
    trained = choose(state, which)
    networks: dict[str, Params] = {}
    adapters: dict[str, Params] = {}
    if isinstance(learner.model, Tuned):
        networks[learner.model.component] = learner.model.exported(trained, frozen)
    elif cfg.adapter is None:
        networks[cfg.network] = trained
    else:
        adapters[cfg.adapter.name] = with_scale(trained, frozen.alpha_scale)
        if cfg.fold:
            assert frozen.params is not None
            networks["dit"] = frozen.params
    save_trained(
        cfg.checkpoint,
        dest,
        networks=networks,
        configs=configs or {},
        adapters=adapters,
        folded=[name for name, _ in cfg.fold],
        scheduler={"t_thresh": cfg.objective.t_thresh} if isinstance(cfg.objective, Refinement) else None,
        dtype=None if dtype is None else jnp.dtype(dtype),
        made_by={"steps": int(state.step), "weights": which, "config": cfg.to_json()},
    )


class LatentStatistics:
    """Mean and standard deviation of each latent channel, over batches of clips: what latents are normalised by."""

    def __init__(self, cfg: VAEConfig):
        self._cfg = cfg
        self._count, self._sum, self._squares = 0, jnp.zeros(cfg.z_dim), jnp.zeros(cfg.z_dim)

    def add(self, model: WanVAE, params: Params, video_BTHWC: Array) -> None:
        """Takes clips in, uint8."""
        mean_SC = _means(model, params, video_BTHWC).reshape(-1, self._cfg.z_dim)
        self._count += mean_SC.shape[0]
        self._sum += mean_SC.sum(0)
        self._squares += jnp.square(mean_SC).sum(0)

    def config(self) -> VAEConfig:
        """The autoencoder's config with them."""
        mean = self._sum / self._count
        std = jnp.sqrt(self._squares / self._count - mean**2)
        return dataclasses.replace(self._cfg, latents_mean=tuple(map(float, mean)), latents_std=tuple(map(float, std)))


@functools.partial(jax.jit, static_argnums=0)
def _means(model: WanVAE, params: Params, video_BTHWC: Array) -> Array:
    apply: Any = model.apply
    return apply({"params": params}, video_BTHWC.astype(jnp.float32) / 127.5 - 1, method="encode")[0]
