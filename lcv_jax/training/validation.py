"""The loss on data that are held out: the same batches, noise and times each time."""

import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from lcv_jax.array_types import Array, Params
from lcv_jax.data.batches import BatchKind
from lcv_jax.data.config import DataConfig
from lcv_jax.data.manifest_config import ManifestConfig
from lcv_jax.training.base import Base
from lcv_jax.training.config import TrainConfig
from lcv_jax.training.inputs import Inputs
from lcv_jax.training.state import Frozen, TrainState
from lcv_jax.training.step import IN_ORDER, Learner


class Validation:
    """Reads the held-out clips anew each time, from the first batch on."""

    def __init__(self, cfg: TrainConfig, learner: Learner, mesh: Mesh, base: Base):
        """Opens the data.

        Raises:
            ValueError: there are no such clips, or they do not suit the run.
        """
        assert isinstance(cfg.data, DataConfig | ManifestConfig)
        own = cfg.validation.path is not None
        # Without a gradient there are no parts to add up: a part of the batch at a time.
        size = cfg.batch_size // cfg.optimizer.accumulation
        alike = dataclasses.replace(
            cfg,
            data=cfg.data.for_validation(cfg.validation.path),
            batch_size=size,
            optimizer=dataclasses.replace(cfg.optimizer, accumulation=1),
            validation=dataclasses.replace(cfg.validation, every=None),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few clips, which repeat in a batch, are as it should be here
            self._inputs = Inputs(alike, mesh, base, held_out=not own)
        self._start = self._inputs.get_state()
        self._learner, self._batches, self._key = learner, cfg.validation.batches, jax.random.key(cfg.seed)

    def measure(self, state: TrainState, params: Params, frozen: Frozen) -> dict[str, float]:
        """The mean loss over all batches, and what the objective has to say of all their samples together.

        Args:
            state: gives what the objective compares with.
            params: the trained weights to judge.
            frozen: those that are not trained.
        """
        self._inputs.set_state(self._start)
        losses, weights, samples = [], [], []
        for number in range(self._batches):
            kind, batch = self._inputs.next()
            key = jax.random.fold_in(self._key, number)
            loss, weight, found = _loss(self._learner, params, state.ema, frozen, batch, key, kind)
            losses.append(loss)
            weights.append(weight)
            samples.append(found)
        losses, weights, samples = jax.device_get((losses, weights, samples))
        measured = {"validation_loss": float(np.average(losses, weights=weights))}
        if samples[0]:
            together = {name: np.concatenate([one[name] for one in samples]) for name in samples[0]}
            found = self._learner.objective.summary(together, self._inputs.dimensions)
            measured |= {f"validation/{name}": value for name, value in found.items()}
        return measured

    def close(self) -> None:
        """Stops reading."""
        self._inputs.close()


@functools.partial(jax.jit, static_argnames=("learner", "kind"), compiler_options=IN_ORDER)
def _loss(
    learner: Learner, params: Params, ema: Any, frozen: Frozen, batch: dict[str, Array], key: Array, kind: BatchKind
) -> tuple[Array, Array, dict[str, Array]]:
    losses = learner.loss(params, ema, frozen, batch, key, kind)
    found = losses.loss.mean(), jnp.asarray(losses.weight), losses.samples
    return jax.lax.with_sharding_constraint(found, PartitionSpec())
