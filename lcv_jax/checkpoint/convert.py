"""Parameters from published PyTorch tensors, and back, by the name table of names.py.

Both directions are strict: every tensor is used exactly once, and whatever is missing, unexpected or misshapen is
listed in one error. Arrays only, no files: see safetensors_files.py and store.py.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from lcv_jax.array_types import Params
from lcv_jax.checkpoint.judge_names import CAPTIONER_ALIASES, captioner_table
from lcv_jax.checkpoint.names import (
    UMT5_ALIASES,
    Leaf,
    Shape,
    Table,
    adapter_table,
    dit_table,
    listed,
    lora_table,
    published_shapes,
    umt5_table,
    vae_table,
)
from lcv_jax.config import DiTConfig, PublishedConfig, Qwen2VLConfig, UMT5Config, VAEConfig

TorchState = Mapping[str, np.ndarray]


def check_names(
    what: str, wanted: Mapping[str, Shape], got: Mapping[str, Shape], aliases: Mapping[str, str] | None = None
) -> None:
    """Compares names and shapes.

    Args:
        what: what is compared, for the error.
        wanted: every name that must be there.
        got: the names that are there.
        aliases: names that may be there too, each with the name it must be equal to.

    Raises:
        ValueError: names are missing, unexpected or misshapen; all are listed, the first 20 of each kind by name.
    """
    may = {**wanted, **{alias: wanted[name] for alias, name in (aliases or {}).items()}}
    kinds = {
        "missing": [name for name in wanted if name not in got],
        "unexpected": [name for name in got if name not in may],
        "misshapen": [
            f"{name} is {tuple(shape)}, wanted {may[name]}"
            for name, shape in got.items()
            if name in may and tuple(shape) != may[name]
        ],
    }
    problems = [f"{len(names)} {kind}: {listed(names)}" for kind, names in kinds.items() if names]
    if problems:
        raise ValueError(f"{what} does not fit its config: " + "; ".join(problems))


def to_params(table: Table, torch_state: TorchState) -> Params:
    """The nested dict of a table from published tensors whose names and shapes were checked; the dtype stays.

    Raises:
        ValueError: the tensors that one parameter is stacked from differ in dtype.
    """
    params: Params = {}
    for leaf in table:
        parameter = np.empty(leaf.shape, one_dtype(leaf, [torch_state[name].dtype for name in leaf.names]))
        for name, index in leaf.slices():
            parameter[index] = leaf.turn(np.asarray(torch_state[name]))
        place(params, leaf.path, parameter)
    return params


def one_dtype(leaf: Leaf, dtypes: Iterable[Any]) -> np.dtype:
    """The dtype of the tensors that a parameter is stacked from.

    Raises:
        ValueError: they differ.
    """
    found = {np.dtype(dtype) for dtype in dtypes}
    if len(found) > 1:
        kinds = " and ".join(sorted(dtype.name for dtype in found))
        raise ValueError(f"{leaf.names[0]} and the same tensor of other layers are of {kinds}: cast them to one dtype")
    return found.pop()


def to_torch_state(what: str, table: Table, params: Params) -> dict[str, np.ndarray]:
    """Published tensors from the nested dict of a table; the dtype stays.

    Raises:
        ValueError: parameters are missing, unexpected or misshapen.
    """
    flat = dict(flatten(params))
    check_names(
        what,
        {"/".join(leaf.path): leaf.shape for leaf in table},
        {"/".join(path): parameter.shape for path, parameter in flat.items()},
    )
    torch_state = {}
    for leaf in table:
        parameter = np.asarray(flat[leaf.path])
        for name, index in leaf.slices():
            torch_state[name] = np.ascontiguousarray(leaf.turn_back(np.asarray(parameter[index]))).reshape(
                leaf.published
            )
    return torch_state


def place(tree: Params, path: tuple[str, ...], value: Any) -> None:
    """Puts a value into a nested dict."""
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def flatten(tree: Mapping, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The paths and values of a nested dict."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, (*path, key))
        else:
            yield (*path, key), value


def _shapes(torch_state: TorchState) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in torch_state.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """What conversion knows of one network."""

    title: str
    config: type[PublishedConfig]
    table: Callable[[Any], Table]
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Second names under which a tensor may be stored once more."""

    def params(self, torch_state: TorchState, cfg: PublishedConfig) -> Params:
        """Parameters from published tensors."""
        table = self.table(cfg)
        check_names(self.title, published_shapes(table), _shapes(torch_state), self.aliases)
        for alias, name in self.aliases.items():
            if alias in torch_state and not np.array_equal(torch_state[alias], torch_state[name]):
                raise ValueError(f"{self.title}: {alias} must equal {name}, but does not")
        return to_params(table, torch_state)

    def torch_state(self, params: Params, cfg: PublishedConfig) -> dict[str, np.ndarray]:
        """Published tensors from parameters."""
        return to_torch_state(self.title, self.table(cfg), params)


NETWORKS: Mapping[str, Network] = {
    "dit": Network(title="the transformer", config=DiTConfig, table=dit_table),
    "vae": Network(title="the autoencoder", config=VAEConfig, table=vae_table),
    "text_encoder": Network(title="the text encoder", config=UMT5Config, table=umt5_table, aliases=UMT5_ALIASES),
    "qwen2_vl": Network(title="Qwen2-VL", config=Qwen2VLConfig, table=captioner_table, aliases=CAPTIONER_ALIASES),
}
"""The networks by the names of their folders; LongCat-Video has the first three."""


def dit_params(torch_state: TorchState, cfg: DiTConfig) -> Params:
    """The transformer's parameters from published tensors, in the dtype given.

    Raises:
        ValueError: names or shapes do not fit the config; all are listed.
    """
    return NETWORKS["dit"].params(torch_state, cfg)


def vae_params(torch_state: TorchState, cfg: VAEConfig) -> Params:
    """The autoencoder's parameters from published tensors, in the dtype given.

    Raises:
        ValueError: names or shapes do not fit the config; all are listed.
    """
    return NETWORKS["vae"].params(torch_state, cfg)


def umt5_params(torch_state: TorchState, cfg: UMT5Config) -> Params:
    """The text encoder's parameters from published tensors, in the dtype given.

    Raises:
        ValueError: names or shapes do not fit the config (all are listed), or the embedding's second copy differs.
    """
    return NETWORKS["text_encoder"].params(torch_state, cfg)


def lora_params(torch_state: TorchState, cfg: DiTConfig) -> Params:
    """An adapter from published tensors, in the dtype given, over the transformer's layers.

    Returns:
        `adapter["blocks"][module][linear]` = `down` (depth, in, n, R), `up` (depth, n, R, out / n) and `alpha_scale`
        (depth,): n low-rank pairs of rank R, each for its slice of the output.

    Raises:
        ValueError: no adapter of the published key format, one for another model, or names or shapes that do not fit.
    """
    table = lora_table(_shapes(torch_state), cfg)
    check_names("the adapter", published_shapes(table), _shapes(torch_state))
    return to_params(table, torch_state)


def dit_torch_state(params: Params, cfg: DiTConfig) -> dict[str, np.ndarray]:
    """The transformer's published tensors: the inverse of `dit_params`."""
    return NETWORKS["dit"].torch_state(params, cfg)


def vae_torch_state(params: Params, cfg: VAEConfig) -> dict[str, np.ndarray]:
    """The autoencoder's published tensors: the inverse of `vae_params`."""
    return NETWORKS["vae"].torch_state(params, cfg)


def umt5_torch_state(params: Params, cfg: UMT5Config, *, alias: bool = False) -> dict[str, np.ndarray]:
    """The text encoder's published tensors: the inverse of `umt5_params`; alias: the embedding's second copy too."""
    torch_state = NETWORKS["text_encoder"].torch_state(params, cfg)
    return torch_state | ({copy: torch_state[name] for copy, name in UMT5_ALIASES.items()} if alias else {})


def lora_torch_state(params: Params, cfg: DiTConfig) -> dict[str, np.ndarray]:
    """An adapter in the published key format: the inverse of `lora_params`."""
    table = adapter_table({path: leaf.shape for path, leaf in flatten(params)}, cfg)
    return to_torch_state("the adapter", table, params)
