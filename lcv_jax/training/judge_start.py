"""What the training of a judge starts from: its weights, as those that are trained and those that stay."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from lcv_jax.array_types import Array, Params
from lcv_jax.checkpoint import convert
from lcv_jax.checkpoint.judge_conversion import load_judge_params
from lcv_jax.checkpoint.judge_names import judge_table
from lcv_jax.parallel.sharding import loading_rule, shardings
from lcv_jax.training import state as states
from lcv_jax.training.judges import ADAPTED, TABLE, TEXT_LAYERS, JudgeModel
from lcv_jax.training.networks import Start, placed
from lcv_jax.training.state import Frozen


class JudgeStart(Start):
    """What the training of a judge starts from."""

    @property
    def model(self) -> JudgeModel:
        """The judge."""
        model = self.learner.model
        assert isinstance(model, JudgeModel)
        return model

    def frozen(self) -> Frozen:
        """The embedding table; with an adapter the text model."""
        params = self._read(lambda path: path == TABLE or not self.model.is_trained(path), self.cfg.dtype)
        return Frozen(params=params, alpha_scale=self._scale())

    def frozen_shapes(self) -> Frozen:
        """Shapes of `frozen()`, with their places; nothing is read."""
        shapes = self._shapes(lambda path: not self.model.is_trained(path), self.cfg.dtype)
        places = shardings(shapes, self.learner.mesh, self.learner.rules, "params")
        scale = None
        if self.cfg.adapter is not None:
            whole = NamedSharding(self.learner.mesh, PartitionSpec())
            scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
        return Frozen(params=placed(shapes, places), alpha_scale=scale)

    def _scale(self) -> Array | None:
        adapter = self.cfg.adapter
        return None if adapter is None else self._everywhere(jnp.float32(adapter.alpha / adapter.rank))

    def _trained(self) -> Params:
        read = self._read(lambda path: path == TABLE or self.model.is_trained(path), "float32")
        table_VD = read["model"].pop("embed_tokens")["weight"]
        rows_RD = self._everywhere(table_VD[jnp.array(self.model.reward_ids)])
        trained = {"network": read, "token_rows": {"weight": rows_RD}}
        if not read["model"]:
            del read["model"]
        return trained | jax.jit(lambda: self._pairs(jax.random.key(self.cfg.seed)))()

    def _trained_shapes(self) -> Params:
        cfg = self.model.cfg
        rows = jax.ShapeDtypeStruct((len(self.model.reward_ids), cfg.network.hidden_size), jnp.float32)
        pairs = jax.eval_shape(lambda: self._pairs(jax.random.key(0)))
        return {"network": self._shapes(self.model.is_trained, "float32"), "token_rows": {"weight": rows}, **pairs}

    def _pairs(self, key: Array) -> Params:
        if self.cfg.adapter is None:
            return {}
        shapes = self._shapes(lambda path: path[:2] == TEXT_LAYERS, "float32")
        new = functools.partial(states.new_adapter, stack=TEXT_LAYERS, modules=ADAPTED)
        return {"pairs": new(self.cfg.adapter, shapes, key)}

    def _shapes(self, keep: Callable[[tuple[str, ...]], bool], dtype: str) -> Params:
        tree: Params = {}
        for leaf in judge_table(self.model.cfg):
            if keep(leaf.path):
                convert.place(tree, leaf.path, jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype)))
        return tree

    def _read(self, keep: Callable[[tuple[str, ...]], bool], dtype: str) -> Params:
        rule = loading_rule(self.learner.mesh, self.learner.rules)
        return load_judge_params(self.cfg.checkpoint, self.model.cfg, dtype, rule, keep)
