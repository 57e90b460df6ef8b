"""A network on Qwen2-VL's towers as it is trained: which of its parameters change, which stay, and how both are it.

    params/network/...   parameters that are trained in full
    params/pairs/...     low-rank factors of the text model's linear layers, where an adapter is trained

What is frozen is no parameter of the optimiser: it has neither moments nor weight decay. Judges are in judges.py,
captioners in captioners.py.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Params
from lcv_jax.checkpoint.names import Table
from lcv_jax.data.batches import Batches
from lcv_jax.models.lora import combine, fold
from lcv_jax.training import state as states
from lcv_jax.training.config import TrainConfig
from lcv_jax.training.state import Frozen

TABLE = ("model", "embed_tokens", "weight")
TEXT_LAYERS = ("model", "layers")
ADAPTED = ("self_attn", "mlp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuned(abc.ABC):
    """What a step is compiled for."""

    component: ClassVar[str]
    """Its folder of a converted checkpoint."""
    network: Any
    adapted: bool
    """An adapter of the text model is trained."""
    vision: bool
    """The vision tower is trained, in full."""

    @property
    def cfg(self) -> Any:
        """The network's."""
        return self.network.cfg

    @property
    @abc.abstractmethod
    def table(self) -> Table:
        """All parameters of the network."""

    @abc.abstractmethod
    def read(self, folder: Path, dtype: str, rule: Any, keep: Callable[[tuple[str, ...]], bool]) -> Params:
        """Parameters of a converted folder, those that are to be kept, each where the rule says."""

    @abc.abstractmethod
    def bound(self, variables: Params) -> Any:
        """What the objective is called with: the network with these variables."""

    @abc.abstractmethod
    def cost(self, batch: Mapping[str, Any]) -> tuple[int, float]:
        """Tokens of a batch, and operations that its step cannot do without; see training/cost.py."""

    @property
    def passes(self) -> int:
        """What a step costs, in forward passes: the backward one is two, or one where weights are frozen."""
        return 3

    def is_trained(self, path: tuple[str, ...]) -> bool:
        """Whether a parameter of the network is trained in full."""
        return self.vision if path[0] == "visual" else not self.adapted

    def is_read(self, path: tuple[str, ...]) -> bool:
        """Whether `begin` takes a parameter."""
        return self.is_trained(path)

    def begin(self, read: Params) -> Params:
        """What is trained but the adapter, from the parameters of `is_read`."""
        return {"network": read} if read else {}

    def params(self, trained: Params, frozen: Params) -> Params:
        """The network's parameters, without the adapter."""
        return merged(frozen, trained.get("network", {}))

    def variables(self, trained: Params, frozen: Frozen) -> Params:
        """What the network is applied with."""
        assert frozen.params is not None
        variables = {"params": self.params(trained, frozen.params)}
        if self.adapted:
            variables["adapters"] = combine([(states.with_scale(trained["pairs"], frozen.alpha_scale), 1.0)])
        return variables

    def exported(self, trained: Params, frozen: Frozen) -> Params:
        """The parameters of a converted folder, the adapter folded in.

        What was trained is in float32: a narrower sum would lose most of what was added.
        """
        assert frozen.params is not None
        params = self.params(trained, frozen.params)
        if not self.adapted:
            return params
        layers = params["model"]["layers"]
        for module in ADAPTED:
            layers[module] = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), layers[module])
        return fold(params, [(states.with_scale(trained["pairs"], frozen.alpha_scale), 1.0)])


@runtime_checkable
class TunedBase(Protocol):
    """What a run reads of the checkpoint that it starts from, but for the weights."""

    @property
    def dimensions(self) -> Sequence[str]:
        """What the objective's summary is told apart by."""
        ...

    def model(self, cfg: TrainConfig) -> Tuned:
        """The network as a config trains it."""
        ...

    def check(self, cfg: TrainConfig) -> None:
        """Raises ValueError for a config that does not suit the checkpoint."""
        ...

    def open_data(self, cfg: TrainConfig, **rows: Any) -> Batches:
        """Opens the data; which rows of them is as for `open_batches`."""
        ...


def merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> Params:
    """Two nested dicts as one that is new down to its leaves; they share no leaf."""
    names = {**one, **other}
    return {
        name: merged(one.get(name, {}), other.get(name, {})) if isinstance(value, Mapping) else value
        for name, value in names.items()
    }
