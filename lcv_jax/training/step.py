"""One optimiser step, jitted: gradients of a batch in parts, clipping, AdamW, the average; and what it measures."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from lcv_jax.array_types import Array, Params
from lcv_jax.data.batches import BatchKind
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.models.vae import WanVAE
from lcv_jax.objectives.networks import AutoencoderNetworks, Losses, Networks, Velocity
from lcv_jax.parallel.mesh import batch_axes
from lcv_jax.parallel.sharding import Rules, shardings
from lcv_jax.training.config import OptimizerConfig
from lcv_jax.training.state import Frozen, TrainState, ema_weight, learning_rate, optimizer, variables_of
from lcv_jax.training.tuned import Tuned

Measured = dict[str, Array]
"""Of a step: loss, grad_norm, finite, learning_rate, error_B and perhaps t_B a sample, and the objective's metrics."""


@dataclasses.dataclass(frozen=True)
class Learner:
    """What a step is compiled for: a static argument."""

    model: LongCatVideo | WanVAE | Tuned
    objective: Any
    """Of lcv_jax/objectives."""
    optimizer: OptimizerConfig
    adapted: bool
    """What is trained is an adapter."""
    mesh: Mesh
    rules: Rules

    def loss(
        self,
        params: Params,
        ema: Params | None,
        frozen: Frozen,
        batch: Mapping[str, Array],
        key: Array,
        kind: BatchKind,
    ) -> Losses:
        """The objective with its networks bound to these weights."""
        given = {"num_cond_latents": kind.num_cond_latents}
        if isinstance(self.model, WanVAE):
            apply: Any = self.model.apply
            halves = AutoencoderNetworks(
                encode=functools.partial(apply, {"params": params}, method="encode"),
                decode=functools.partial(apply, {"params": params}, method="decode_unclipped"),
            )
            return self.objective(halves, batch, key, **given)
        if isinstance(self.model, Tuned):
            return self.objective(self.model.bound(self.model.variables(params, frozen)), batch, key, **given)
        teacher = average = None
        if "teacher" in self.objective.needs:
            teacher = self._velocity({"params": frozen.params, **_if_any("adapters", frozen.adapters)})
        if "average" in self.objective.needs:
            assert ema is not None
            average = self._velocity(variables_of(ema, frozen, self.adapted))
        student = self._velocity(variables_of(params, frozen, self.adapted))
        return self.objective(Networks(student=student, teacher=teacher, average=average), batch, key, **given)

    def _velocity(self, variables: Params) -> Velocity:
        assert isinstance(self.model, LongCatVideo)
        apply: Any = self.model.apply
        return functools.partial(apply, variables)


# A gradient has collectives that do not depend on one another. Devices of a CPU share its threads, and may each wait in
# another one of them for ever, unless all take them in one order.
IN_ORDER = {"xla_cpu_enable_concurrency_optimized_scheduler": False}


@functools.partial(jax.jit, static_argnames=("learner", "kind"), donate_argnames="state", compiler_options=IN_ORDER)
def train_step(
    learner: Learner, state: TrainState, frozen: Frozen, batch: dict[str, Array], kind: BatchKind
) -> tuple[TrainState, Measured]:
    """A step on a batch. Where its loss or gradient is not finite, the weights stay as they are and `skipped` grows."""
    cfg = learner.optimizer
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    grads, measured = _gradients(learner, state, frozen, batch, key, kind)
    measured["grad_norm"] = norm = optax.tree.norm(grads)
    measured["learning_rate"] = jnp.asarray(learning_rate(cfg)(state.step), jnp.float32)
    finite = measured["finite"] = jnp.isfinite(measured["loss"]) & jnp.isfinite(norm)

    updates, opt_state = optimizer(cfg).update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        ema = optax.incremental_update(params, ema, ema_weight(cfg, state.step))

    def kept(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)

    changed = TrainState(
        step=state.step + 1,
        skipped=jnp.where(finite, 0, state.skipped + 1),
        key=state.key,
        params=kept(params, state.params),
        ema=None if ema is None else kept(ema, state.ema),
        opt_state=kept(opt_state, state.opt_state),
    )
    measured["skipped"] = changed.skipped
    measured = jax.lax.with_sharding_constraint(measured, PartitionSpec())  # so that every process can read them
    return jax.lax.with_sharding_constraint(changed, shardings(changed, learner.mesh, learner.rules)), measured


def _gradients(
    learner: Learner, state: TrainState, frozen: Frozen, batch: dict[str, Array], key: Array, kind: BatchKind
) -> tuple[Params, Measured]:
    """The gradient of the mean loss, computed in `accumulation` parts; likewise what is measured."""
    parts = learner.optimizer.accumulation

    def loss(params: Params, batch: dict[str, Array], key: Array) -> tuple[Array, Losses]:
        losses = learner.loss(params, state.ema, frozen, batch, key, kind)
        return losses.loss * (losses.weight if parts > 1 else 1), losses

    def in_place(grads: Params) -> Params:
        return jax.lax.with_sharding_constraint(grads, shardings(grads, learner.mesh, learner.rules, "grads"))

    def of_part(batch: dict[str, Array], key: Array) -> tuple[Params, Losses]:
        grads, losses = jax.grad(loss, has_aux=True)(state.params, batch, key)
        return in_place(grads), losses

    if parts == 1:
        grads, losses = of_part(batch, key)
        losses = jax.tree.map(lambda x: jnp.asarray(x)[None], losses)
    else:
        shared = {name: array for name, array in batch.items() if array.shape[0] == 1}
        own = {name: _in_parts(array, parts, learner.mesh) for name, array in batch.items() if name not in shared}

        def add(sums: Params, given: tuple[dict[str, Array], Array]) -> tuple[Params, Losses]:
            grads, losses = of_part({**given[0], **shared}, given[1])
            return in_place(jax.tree.map(jnp.add, sums, grads)), losses

        nothing = in_place(jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), state.params))
        grads, losses = jax.lax.scan(add, nothing, (own, jax.random.split(key, parts)))
        grads = jax.tree.map(lambda grad: grad / jnp.sum(losses.weight), grads)
    mean = functools.partial(jnp.average, weights=losses.weight)
    measured = {name: mean(value) for name, value in losses.metrics.items()}
    measured |= {"loss": mean(losses.loss), "error_B": losses.error_B.reshape(-1)}
    if losses.t_B is not None:
        measured["t_B"] = losses.t_B.reshape(-1)
    return grads, measured


def _in_parts(array_B: Array, parts: int, mesh: Mesh) -> Array:
    """A batch as parts of it, each spread over the devices as the whole was: every `parts`-th sample."""
    split = jnp.swapaxes(array_B.reshape(-1, parts, *array_B.shape[1:]), 0, 1)
    return jax.lax.with_sharding_constraint(split, PartitionSpec(None, batch_axes(mesh, split.shape[1])))


def _if_any(name: str, value: Any) -> dict[str, Any]:
    return {} if value is None else {name: value}
