"""One optimiser step, jitted: gradients of a batch in parts, clipping, AdamW, the average; and what it measures."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
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
from lcv_jax.training.state import (
    FakeScore,
    Frozen,
    SelfForcingState,
    TrainState,
    ema_weight,
    learning_rate,
    optimizer,
    variables_of,
)
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
        fake: Params | None = None,
    ) -> Losses:
        """The objective with its networks bound to these weights."""
        given = {"num_cond_latents": kind.num_cond_latents}
        if isinstance(self.model, WanVAE):
            apply: Any = self.model.apply
            halves = AutoencoderNetworks(
                encode=functools.partial(apply, {"params": params}, method="encode"),
                decode=functools.partial(apply, {"params": params}, method="decode_unclipped"),
                std_C=jnp.asarray(self.model.cfg.latents_std, jnp.float32),
            )
            if "teacher" in self.objective.needs:
                start = functools.partial(apply, {"params": frozen.params}, method="encode")
                halves = halves._replace(start=start)
            return self.objective(halves, batch, key, **given)
        if isinstance(self.model, Tuned):
            return self.objective(self.model.bound(self.model.variables(params, frozen)), batch, key, **given)
        teacher = average = None
        if "teacher" in self.objective.needs:
            teacher = self._velocity({"params": frozen.params, **_if_any("adapters", frozen.adapters)})
        if "average" in self.objective.needs:
            assert ema is not None
            average = self.velocity(ema, frozen)
        bound = Networks(self.velocity(params, frozen), teacher=teacher, average=average)
        if "rollout" in self.objective.needs:
            still = jax.lax.stop_gradient(variables_of(params, frozen, self.adapted))
            keep = functools.partial(self.model.apply, still, method="encode_condition")
            bound = bound._replace(still=self._velocity(still), keep=keep)  # type: ignore[arg-type]
        if fake is not None:
            bound = bound._replace(fake=self.velocity(fake, frozen))
        return self.objective(bound, batch, key, **given)

    def velocity(self, params: Params, frozen: Frozen) -> Velocity:
        """Of the transformer with these trained weights."""
        return self._velocity(variables_of(params, frozen, self.adapted))

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
    fake = state.fake if isinstance(state, SelfForcingState) else None
    if fake is not None:
        key, fake_key = jax.random.split(key)

    def loss(params: Params, batch: Mapping[str, Array], key: Array) -> Losses:
        return learner.loss(params, state.ema, frozen, batch, key, kind, None if fake is None else fake.params)

    grads, losses = _gradients(learner, loss, state.params, batch, key)
    measured = _measured(losses)
    measured["grad_norm"] = norm = optax.tree.norm(grads)
    measured["learning_rate"] = jnp.asarray(learning_rate(cfg)(state.step), jnp.float32)
    finite = jnp.isfinite(measured["loss"]) & jnp.isfinite(norm)
    if fake is not None:
        fake, told = _train_fake(learner, fake, frozen, {**batch, **jax.tree.map(_whole, losses.rollout)}, fake_key)
        measured |= told
        finite &= jnp.isfinite(told["fake_loss"]) & jnp.isfinite(told["fake_grad_norm"])
    measured["finite"] = finite

    updates, opt_state = optimizer(cfg).update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        ema = optax.incremental_update(params, ema, ema_weight(cfg, state.step))

    def kept(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)

    changed = state.replace(  # type: ignore[attr-defined]
        step=state.step + 1,
        skipped=jnp.where(finite, 0, state.skipped + 1),
        key=state.key,
        params=kept(params, state.params),
        ema=None if ema is None else kept(ema, state.ema),
        opt_state=kept(opt_state, state.opt_state),
        **({} if fake is None else {"fake": kept(fake, state.fake)}),  # type: ignore[attr-defined]
    )
    measured["skipped"] = changed.skipped
    measured = jax.lax.with_sharding_constraint(measured, PartitionSpec())  # so that every process can read them
    return jax.lax.with_sharding_constraint(changed, shardings(changed, learner.mesh, learner.rules)), measured


def _train_fake(
    learner: Learner, fake: FakeScore, frozen: Frozen, batch: dict[str, Array], key: Array
) -> tuple[FakeScore, Measured]:
    """Updates of the fake score on clips that the student made; what is measured is the mean over them."""
    count = learner.objective.fake_updates
    adamw = optimizer(learner.optimizer, count)

    def update(fake: FakeScore, key: Array) -> tuple[FakeScore, Measured]:
        def loss(params: Params, batch: Mapping[str, Array], key: Array) -> Losses:
            learns = Networks(learner.velocity(params, frozen))
            return learner.objective.fake_objective(learns, batch, key, num_cond_latents=0)

        grads, losses = _gradients(learner, loss, fake.params, batch, key)
        updates, opt_state = adamw.update(grads, fake.opt_state, fake.params)
        told = {"fake_loss": jnp.mean(losses.loss), "fake_grad_norm": optax.tree.norm(grads)}
        return FakeScore(params=optax.apply_updates(fake.params, updates), opt_state=opt_state), told

    fake, told = jax.lax.scan(update, fake, jax.random.split(key, count))
    return fake, jax.tree.map(jnp.mean, told)


def _gradients(
    learner: Learner,
    objective: Callable[[Params, Mapping[str, Array], Array], Losses],
    params: Params,
    batch: dict[str, Array],
    key: Array,
) -> tuple[Params, Losses]:
    """The gradient of the mean loss, computed in `accumulation` parts, and the losses of each part."""
    parts = learner.optimizer.accumulation

    def loss(params: Params, batch: dict[str, Array], key: Array) -> tuple[Array, Losses]:
        losses = objective(params, batch, key)
        return losses.loss * (losses.weight if parts > 1 else 1), losses

    def in_place(grads: Params) -> Params:
        return jax.lax.with_sharding_constraint(grads, shardings(grads, learner.mesh, learner.rules, "grads"))

    def of_part(batch: dict[str, Array], key: Array) -> tuple[Params, Losses]:
        grads, losses = jax.grad(loss, has_aux=True)(params, batch, key)
        return in_place(grads), losses

    if parts == 1:
        grads, losses = of_part(batch, key)
        return grads, jax.tree.map(lambda x: jnp.asarray(x)[None], losses)
    shared = {name: array for name, array in batch.items() if array.shape[0] == 1}
    own = {name: _in_parts(array, parts, learner.mesh) for name, array in batch.items() if name not in shared}

    def add(sums: Params, given: tuple[dict[str, Array], Array]) -> tuple[Params, Losses]:
        grads, losses = of_part({**given[0], **shared}, given[1])
        return in_place(jax.tree.map(jnp.add, sums, grads)), losses

    nothing = in_place(jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params))
    grads, losses = jax.lax.scan(add, nothing, (own, jax.random.split(key, parts)))
    return jax.tree.map(lambda grad: grad / jnp.sum(losses.weight), grads), losses


def _measured(losses: Losses) -> Measured:
    """Of all parts of a batch together."""
    mean = functools.partial(jnp.average, weights=losses.weight)
    measured = {name: mean(value) for name, value in losses.metrics.items()}
    measured |= {"loss": mean(losses.loss), "error_B": losses.error_B.reshape(-1)}
    if losses.t_B is not None:
        measured["t_B"] = losses.t_B.reshape(-1)
    return measured


def _in_parts(array_B: Array, parts: int, mesh: Mesh) -> Array:
    """A batch as parts of it, each spread over the devices as the whole was: every `parts`-th sample."""
    split = jnp.swapaxes(array_B.reshape(-1, parts, *array_B.shape[1:]), 0, 1)
    return jax.lax.with_sharding_constraint(split, PartitionSpec(None, batch_axes(mesh, split.shape[1])))


def _whole(array_PB: Array | None) -> Array:
    """The batch that `_in_parts` split, or that is a single part."""
    assert array_PB is not None
    return jnp.swapaxes(array_PB, 0, 1).reshape(-1, *array_PB.shape[2:])


def _if_any(name: str, value: Any) -> dict[str, Any]:
    return {} if value is None else {name: value}
