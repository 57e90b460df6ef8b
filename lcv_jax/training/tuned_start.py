"""What the training of a judge or a captioner starts from: weights that are trained, and weights that stay."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from lcv_jax.array_types import Array, Params
from lcv_jax.checkpoint import convert
from lcv_jax.parallel.sharding import loading_rule, shardings
from lcv_jax.training import state as states
from lcv_jax.training.networks import Start, placed
from lcv_jax.training.state import Frozen
from lcv_jax.training.tuned import ADAPTED, TEXT_LAYERS, Tuned


class TunedStart(Start):
    """What the training of a judge or a captioner starts from."""

    @property
    def model(self) -> Tuned:
        """The network."""
        model = self.learner.model
        assert isinstance(model, Tuned)
        return model

    def frozen(self) -> Frozen:
        """All that is not trained in full; with an adapter the text model too."""
        params = self._read(lambda path: not self.model.is_trained(path), self.cfg.dtype)
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
        trained = self.model.begin(self._read(self.model.is_read, "float32"))
        trained |= jax.jit(lambda: self._pairs(jax.random.key(self.cfg.seed)))()
        # Rows of a table that are trained without the rest of it lie where the table lay.
        return jax.jit(lambda trained: trained, out_shardings=self.places().params)(trained)

    def _trained_shapes(self) -> Params:
        trained = jax.eval_shape(self.model.begin, self._shapes(self.model.is_read, "float32"))
        return trained | jax.eval_shape(lambda: self._pairs(jax.random.key(0)))

    def _pairs(self, key: Array) -> Params:
        if self.cfg.adapter is None:
            return {}
        shapes = self._shapes(lambda path: path[:2] == TEXT_LAYERS, "float32")
        new = functools.partial(states.new_adapter, stack=TEXT_LAYERS, modules=ADAPTED)
        return {"pairs": new(self.cfg.adapter, shapes, key)}

    def _shapes(self, keep: Callable[[tuple[str, ...]], bool], dtype: str) -> Params:
        tree: Params = {}
        for leaf in self.model.table:
            if keep(leaf.path):
                convert.place(tree, leaf.path, jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype)))
        return tree

    def _read(self, keep: Callable[[tuple[str, ...]], bool], dtype: str) -> Params:
        rule = loading_rule(self.learner.mesh, self.learner.rules)
        return self.model.read(self.cfg.checkpoint, dtype, rule, keep)
