"""The loss on clips that are held out: the same batches, noise and times each time."""

import dataclasses
import functools
import warnings
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from lcv_jax.array_types import Array, Params
from lcv_jax.data.batches import BatchKind
from lcv_jax.data.config import DataConfig
from lcv_jax.pipeline import Pipeline
from lcv_jax.training.config import TrainConfig
from lcv_jax.training.inputs import Inputs
from lcv_jax.training.state import Frozen, TrainState
from lcv_jax.training.step import IN_ORDER, Learner


class Validation:
    """Reads the held-out clips anew each time, from the first batch on."""

    def __init__(self, cfg: TrainConfig, learner: Learner, mesh: Mesh, pipeline: Pipeline):
        """Opens the data.

        Raises:
            ValueError: there are no such clips, or they do not suit the run.
        """
        assert isinstance(cfg.data, DataConfig)
        own = cfg.validation.path is not None
        data = dataclasses.replace(
            cfg.data,
            path=cfg.validation.path or cfg.data.path,
            held_out=0.0 if own else cfg.data.held_out,
            weight_column=None,
            caption_dropout=0.0,
        )
        # Without a gradient there are no parts to add up: a part of the batch at a time.
        size = cfg.batch_size // cfg.optimizer.accumulation
        alike = dataclasses.replace(
            cfg,
            data=data,
            batch_size=size,
            optimizer=dataclasses.replace(cfg.optimizer, accumulation=1),
            validation=dataclasses.replace(cfg.validation, every=None),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few clips, which repeat in a batch, are as it should be here
            self._inputs = Inputs(alike, mesh, pipeline, held_out=not own)
        self._start = self._inputs.get_state()
        self._learner, self._batches, self._key = learner, cfg.validation.batches, jax.random.key(cfg.seed)

    def loss(self, state: TrainState, params: Params, frozen: Frozen) -> float:
        """The mean over all batches.

        Args:
            state: gives what the objective compares with.
            params: the trained weights to judge.
            frozen: those that are not trained.
        """
        self._inputs.set_state(self._start)
        losses = []
        for number in range(self._batches):
            kind, batch = self._inputs.next()
            key = jax.random.fold_in(self._key, number)
            losses.append(_loss(self._learner, params, state.ema, frozen, batch, key, kind))
        return float(np.mean(jax.device_get(losses)))

    def close(self) -> None:
        """Stops reading."""
        self._inputs.close()


@functools.partial(jax.jit, static_argnames=("learner", "kind"), compiler_options=IN_ORDER)
def _loss(
    learner: Learner, params: Params, ema: Any, frozen: Frozen, batch: dict[str, Array], key: Array, kind: BatchKind
) -> Array:
    loss = learner.loss(params, ema, frozen, batch, key, kind).loss
    return jax.lax.with_sharding_constraint(loss.mean(), PartitionSpec())
