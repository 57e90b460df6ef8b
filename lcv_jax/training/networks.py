"""The networks of a run: which are trained, which are frozen, where they lie, and what they start from."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lcv_jax.array_types import Array, Params
from lcv_jax.checkpoint import store
from lcv_jax.config import DiTConfig, VAEConfig
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.models.lora import combine, fold
from lcv_jax.models.vae import WanVAE
from lcv_jax.objectives.autoencoder import Autoencoder
from lcv_jax.parallel.sharding import full_sharding, loading_rule, shardings
from lcv_jax.training import state as states
from lcv_jax.training.config import AdapterConfig, TrainConfig
from lcv_jax.training.state import Frozen, TrainState
from lcv_jax.training.step import Learner
from lcv_jax.training.tuned import Tuned

WHOLE_CLIP = 1000
"""Latent frames at a time of an autoencoder in training: its clips are short, and loops have to be walked back."""


def learner_of(cfg: TrainConfig, network: DiTConfig | VAEConfig | Tuned, mesh: Mesh) -> Learner:
    """What a step is compiled for."""
    model: LongCatVideo | WanVAE | Tuned
    if isinstance(network, Tuned):
        model = network
    elif isinstance(network, VAEConfig):
        assert isinstance(cfg.objective, Autoencoder), "the only objective of this network"
        model = WanVAE(network, chunk=WHOLE_CLIP, dtype=jnp.dtype(cfg.dtype), branches=cfg.objective.branches)
    else:
        if cfg.sparse is not None:
            network = dataclasses.replace(network, bsa_params=cfg.sparse)
        network = dataclasses.replace(network, enable_bsa=cfg.sparse is not None)
        model = LongCatVideo(network, dtype=jnp.dtype(cfg.dtype), context=cfg.devices.attention(), remat=cfg.remat)
    return Learner(
        model=model,
        objective=cfg.objective,
        optimizer=cfg.optimizer,
        adapted=cfg.adapter is not None,
        mesh=mesh,
        rules=states.rules_of(cfg),
    )


def initialise(model: LongCatVideo | WanVAE | Tuned, key: Array) -> Params:
    """Random float32 weights. A transformer begins with blocks that change nothing (Peebles and Xie, 2023)."""
    assert not isinstance(model, Tuned), "these are never started from scratch"
    if isinstance(model, WanVAE):
        init: Any = model.clone(branches=True).init  # left out or not, they have parameters
        side = model.cfg.spatial_factor
        return init(key, jnp.zeros((1, 1 + model.cfg.temporal_factor, side, side, model.cfg.in_channels)))["params"]
    cfg = dataclasses.replace(model.cfg, enable_bsa=False)
    _, h, w = cfg.patch_size
    latents, text = jnp.zeros((1, 1, h, w, cfg.in_channels)), jnp.zeros((1, 1, cfg.caption_channels))
    plain = LongCatVideo(cfg)
    params = plain.init(key, latents, jnp.zeros((1, 1)), text, jnp.ones((1, 1), bool))["params"]

    def begin(path: tuple[Any, ...], leaf: Array) -> Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return jnp.zeros_like(leaf) if "adaLN_modulation" in name or "final_layer/linear" in name else leaf

    return jax.tree_util.tree_map_with_path(begin, params)


@dataclasses.dataclass(frozen=True)
class Start:
    """What a run starts from, in memory only as far as it is asked for."""

    cfg: TrainConfig
    learner: Learner

    @property
    def network(self) -> str:
        """Which one is trained."""
        return self.cfg.network

    def frozen(self) -> Frozen:
        """Weights that stay as they are."""
        cfg, adapter = self.cfg, self.cfg.adapter
        teaches = "teacher" in cfg.objective.needs
        if adapter is None and not teaches:
            return Frozen()
        params = self._loaded(cfg.dtype)
        if adapter is None:
            return Frozen(params=params)
        scale = self._alpha_scale(adapter)
        teacher = teacher_of(cfg)
        combined = None if teacher is None else combine([(self._adapter(teacher), 1.0)])
        return Frozen(params=params, adapters=combined, alpha_scale=self._everywhere(scale))

    def frozen_shapes(self) -> Frozen:
        """Shapes of `frozen()`, with their places; nothing is read."""
        cfg, adapter, mesh = self.cfg, self.cfg.adapter, self.learner.mesh
        teaches = "teacher" in cfg.objective.needs
        if adapter is None and not teaches:
            return Frozen()
        network = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, cfg.dtype), self._network_shapes())
        params = placed(network, shardings(network, mesh, self.learner.rules, "params"))
        if adapter is None:
            return Frozen(params=params)
        whole = NamedSharding(mesh, PartitionSpec())
        combined = None
        if teacher_of(cfg) is not None:  # an adapter of the same rank
            pairs = self._trained_shapes()
            combined = jax.eval_shape(lambda pairs: combine([(states.with_scale(pairs, 1.0), 1.0)]), pairs)
            combined = placed(combined, jax.tree.map(lambda _: whole, combined))
        return Frozen(
            params=params, adapters=combined, alpha_scale=jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
        )

    def state(self) -> TrainState:
        """The train state before the first step."""
        make = jax.jit(functools.partial(states.begin, self.cfg), out_shardings=self.places(), donate_argnums=0)
        return make(self._trained(), self._fake())

    def shapes(self) -> TrainState:
        """The train state's shapes, with their places: what a checkpoint is restored to."""
        fake = self._trained_shapes() if "fake" in self.cfg.objective.needs else None
        made = jax.eval_shape(functools.partial(states.begin, self.cfg), self._trained_shapes(), fake)
        return placed(made, shardings(made, self.learner.mesh, self.learner.rules))

    def places(self) -> TrainState:
        """Where the state lies."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.shapes())

    def _trained(self) -> Params:
        cfg, mesh, adapter = self.cfg, self.learner.mesh, self.cfg.adapter
        if adapter is not None:
            if adapter.start is not None:
                return self._start_pairs(adapter.start)[0]
            key = jax.random.key(cfg.seed)
            return jax.jit(lambda: states.new_adapter(adapter, self._network_shapes(), key))()
        if cfg.from_scratch:
            make = functools.partial(initialise, self.learner.model)
            places = shardings(self._network_shapes(), mesh, self.learner.rules, "params")
            return jax.jit(make, out_shardings=places)(jax.random.key(cfg.seed))
        return self._loaded("float32")

    def _fake(self) -> Params | None:
        """The adapter of the fake score: the teacher's, or a fresh one, with which the network is the teacher still."""
        adapter = self.cfg.adapter
        if adapter is None or "fake" not in self.cfg.objective.needs:
            return None
        if adapter.teacher is not None:
            pairs, scale = self._start_pairs(adapter.teacher)
            by = scale / self._alpha_scale(adapter)  # the two learn with one scale
            return jax.tree.map_with_path(lambda path, x: x * by if path[-1].key == "up" else x, pairs)
        key = jax.random.key(self.cfg.seed + 1)
        return jax.jit(lambda: states.new_adapter(adapter, self._network_shapes(), key))()

    def _trained_shapes(self) -> Params:
        adapter = self.cfg.adapter
        if adapter is None:
            return self._network_shapes()
        return jax.eval_shape(lambda: states.new_adapter(adapter, self._network_shapes(), jax.random.key(0)))

    def _network_shapes(self) -> Params:
        return jax.eval_shape(functools.partial(initialise, self.learner.model), jax.random.key(0))

    def _loaded(self, dtype: str) -> Params:
        """The network's weights as the checkpoint has them, adapters folded in."""
        rule = loading_rule(self.learner.mesh, self.learner.rules)
        params = store.load_component(self.cfg.checkpoint, self.network, dtype, rule)[1]
        adapters = [(self._adapter(name), multiplier) for name, multiplier in self.cfg.fold]
        return fold(params, adapters) if adapters else params

    def _alpha_scale(self, adapter: AdapterConfig) -> Array:
        """What the trained adapter is multiplied by."""
        if adapter.start is None:
            return jnp.float32(adapter.alpha / adapter.rank)
        return self._start_pairs(adapter.start)[1]

    def _start_pairs(self, name: str) -> tuple[Params, Array]:
        """What is trained of an adapter that training begins from, and what it is multiplied by."""
        pairs, scales = states.split_scale(self._adapter(name))
        if jax.tree.map(jnp.shape, pairs) != jax.tree.map(jnp.shape, self._trained_shapes()):
            assert self.cfg.adapter is not None
            raise ValueError(
                f"the adapter {name} is not one of rank {self.cfg.adapter.rank} for every linear layer of the "
                "blocks: set adapter.rank to its rank"
            )
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), pairs), jnp.ravel(jax.tree.leaves(scales)[0])[0]

    def _adapter(self, name: str) -> Params:
        network = self.learner.model.cfg
        assert isinstance(network, DiTConfig)
        rule = loading_rule(self.learner.mesh, full_sharding(()))
        return store.load_adapter(self.cfg.checkpoint, name, network, sharding=rule)

    def _everywhere(self, value: Array) -> Array:
        return jax.device_put(value, NamedSharding(self.learner.mesh, PartitionSpec()))


def teacher_of(cfg: TrainConfig) -> str | None:
    """The adapter of a distillation's teacher; None: it has none.

    What a student of self-forcing starts from is causal, and its teacher is not: there only `adapter.teacher` counts.
    """
    if cfg.adapter is None or "teacher" not in cfg.objective.needs:
        return None
    return cfg.adapter.teacher or (None if "fake" in cfg.objective.needs else cfg.adapter.start)


def placed(shapes: Any, places: Any) -> Any:
    """Shapes with where they lie."""
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places)
