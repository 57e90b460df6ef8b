"""The train state: what is trained, its average and moments, in one tree whose places one table of rules tells.

    params/...      what is trained: the whole network, or an adapter's pairs; float32
    ema/...         its average, if there is one
    opt_state/...   AdamW's moments
    step, skipped, key
    fake/...        of self-forcing: params and opt_state of the adapter that learns the student's own distribution

Frozen weights stand beside it, as they are in no checkpoint of a run: `Frozen`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lcv_jax.array_types import Array, Params
from lcv_jax.models.lora import combine
from lcv_jax.parallel.sharding import Rules, full_sharding, shardings, zero_2
from lcv_jax.training.config import AdapterConfig, OptimizerConfig, TrainConfig

FINAL_RATE = 0.1
"""Of the learning rate, where it falls."""
PARTS = ("fsdp", "seq")
"""Mesh axes over which state is kept in parts."""


@flax.struct.dataclass
class TrainState:
    """All that a step changes, and all that a checkpoint holds: arrays, their shapes, or their places."""

    step: Any
    """Optimiser steps done, skipped ones included: int32."""
    skipped: Any
    """How many of the last ones in a row were skipped: int32."""
    key: Any
    """Of all random draws, as data, uint32; each step folds its number in."""
    params: Params
    ema: Any
    """Like params; None: there is no average."""
    opt_state: Any


@flax.struct.dataclass
class FakeScore:
    """The second adapter of self-forcing, which learns the distribution of what the student makes."""

    params: Params
    opt_state: Any


@flax.struct.dataclass
class SelfForcingState(TrainState):
    """The train state of self-forcing. Of a class of its own: checkpoints of other objectives have no such place."""

    fake: FakeScore


@flax.struct.dataclass
class Frozen:
    """Weights that a run reads and never changes."""

    params: Params | None = None
    """The network's, where an adapter is trained or a teacher asked for."""
    adapters: Params | None = None
    """What the teacher adds to them, as models/lora.py combines it."""
    alpha_scale: Any = None
    """Of the adapter that is trained: float32."""


def optimizer(cfg: OptimizerConfig, updates: int = 1) -> optax.GradientTransformation:
    """Clipping, then AdamW.

    Args:
        updates: of a step; the learning rate goes by steps.
    """
    rate = learning_rate(cfg)
    by_step = rate if updates == 1 else lambda count: rate(count // updates)
    return optax.chain(
        optax.clip_by_global_norm(cfg.clip_norm),
        optax.adamw(by_step, b1=cfg.b1, b2=cfg.b2, eps=cfg.eps, weight_decay=cfg.weight_decay, mask=decays),
    )


def learning_rate(cfg: OptimizerConfig) -> optax.Schedule:
    """The rate of a step, counted from 0: its first is not 0."""

    def rate(step: Any) -> Array:
        warm = jnp.minimum(1.0, (step + 1) / max(1, cfg.warmup_steps))
        if cfg.decay_steps is None:
            return cfg.learning_rate * warm
        done = jnp.clip((step + 1 - cfg.warmup_steps) / (cfg.decay_steps - cfg.warmup_steps), 0.0, 1.0)
        fallen = FINAL_RATE + (1 - FINAL_RATE) * (1 + jnp.cos(jnp.pi * done)) / 2
        return cfg.learning_rate * warm * fallen

    return rate


def ema_weight(cfg: OptimizerConfig, step: Array) -> Array:
    """The weight of the new parameters in the exponential moving average after a step, counted from 0.

    The decay, 1 minus this, is warmed up: min(ema_decay, (1 + step) / (10 + step)). A short run is therefore averaged
    over its own last steps, instead of being outweighed by the parameters it started from.
    """
    assert cfg.ema_decay is not None
    return jnp.maximum(1 - cfg.ema_decay, 9 / (10 + step))


def decays(params: Params) -> Params:
    """Which parameters weight decay pulls to zero: matrices, but not biases, norms, or embeddings."""

    def is_matrix(path: tuple[Any, ...], leaf: Any) -> bool:
        return path[-1].key in ("kernel", "down", "up")

    return jax.tree_util.tree_map_with_path(is_matrix, params)


def begin(cfg: TrainConfig, params: Params, fake: Params | None = None) -> TrainState:
    """The state before the first step.

    Args:
        params: what is trained.
        fake: of self-forcing, the adapter of the fake score.
    """
    state = TrainState(
        step=jnp.int32(0),
        skipped=jnp.int32(0),
        key=jax.random.key_data(jax.random.key(cfg.seed)),
        params=params,
        # A copy: the step gives the memory of each back by itself.
        ema=None if cfg.optimizer.ema_decay is None else jax.tree.map(jnp.copy, params),
        opt_state=optimizer(cfg.optimizer).init(params),
    )
    if fake is None:
        return state
    parts = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return SelfForcingState(**parts, fake=FakeScore(params=fake, opt_state=optimizer(cfg.optimizer).init(fake)))


def rules_of(cfg: TrainConfig) -> Rules:
    """Where the state lies on the mesh."""
    return full_sharding(PARTS) if cfg.devices.sharding == "full" else zero_2(PARTS)


def places(state: Any, mesh: Mesh, rules: Rules) -> Any:
    """Shardings of a state, or of its shapes."""
    return shardings(state, mesh, rules)


def new_adapter(
    cfg: AdapterConfig,
    params: Params,
    key: Array,
    *,
    stack: Sequence[str] = ("blocks",),
    modules: Sequence[str] = ("attn", "cross_attn", "ffn"),
) -> Params:
    """A fresh adapter for every linear of the blocks: `down` random, `up` zero, so that it adds nothing yet.

    Args:
        params: the network's, or their shapes.
        stack: where its blocks are.
        modules: whose linears are adapted.
    """
    stacked = {"qkv": 3, "kv_linear": 2}
    adapter: Params = {}
    blocks, pairs_of = params, adapter
    for part in stack:
        blocks, pairs_of = blocks[part], pairs_of.setdefault(part, {})
    for module in modules:
        for name, layer in sorted(blocks[module].items()):
            if "kernel" not in layer:
                continue
            depth, rows, columns = layer["kernel"].shape
            pairs = stacked.get(name, 1)
            key, drawn = jax.random.split(key)
            bound = rows**-0.5  # Kaiming's, as the published adapters begin
            pairs_of.setdefault(module, {})[name] = {
                "down": jax.random.uniform(drawn, (depth, rows, pairs, cfg.rank), jnp.float32, -bound, bound),
                "up": jnp.zeros((depth, pairs, cfg.rank, columns // pairs), jnp.float32),
            }
    return adapter


def split_scale(adapter: Params) -> tuple[Params, Params]:
    """A published adapter as what is trained and what is not: its pairs, and its scales."""
    if "down" in adapter:
        return {"down": adapter["down"], "up": adapter["up"]}, {"alpha_scale": adapter["alpha_scale"]}
    parts = {name: split_scale(child) for name, child in adapter.items()}
    return {name: part[0] for name, part in parts.items()}, {name: part[1] for name, part in parts.items()}


def with_scale(pairs: Params, alpha_scale: Any) -> Params:
    """The pairs as a published adapter, with one scale for all."""
    if "down" in pairs:
        depth = pairs["down"].shape[0]
        return {**pairs, "alpha_scale": jnp.full((depth,), alpha_scale, jnp.float32)}
    return {name: with_scale(child, alpha_scale) for name, child in pairs.items()}


def variables_of(params: Params, frozen: Frozen, adapted: bool) -> Params:
    """What the network is applied with.

    Args:
        params: of a train state.
        adapted: they are an adapter's.
    """
    if not adapted:
        return {"params": params}
    assert frozen.params is not None
    return {"params": frozen.params, "adapters": combine([(with_scale(params, frozen.alpha_scale), 1.0)])}
