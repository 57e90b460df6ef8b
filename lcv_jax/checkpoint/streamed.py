"""Loading networks whose layers stay in the host's memory, packed as models/streamed.py wants them."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from lcv_jax.array_types import Params
from lcv_jax.checkpoint import convert, store
from lcv_jax.models.quantize import is_quantized_kernel
from lcv_jax.models.streamed import PackedLayers, pack

STACKS: dict[str, tuple[str, ...]] = {"dit": ("blocks",), "text_encoder": ("encoder", "block")}
"""Where the layers of each network are that can be streamed."""
LAYERS_UNDER_WAY = 4
"""Layers that the host's memory holds beside the rows while a network loads: two that are read, one that is packed, and
one on its way to its row."""


def load_streamed(folder: Path, network: str, dtype: Any, resting: Sharding, others: Sharding) -> Params:
    """A network's parameters, its layers read one by one into the rows where they rest."""
    stack, part = STACKS[network], f"{network}/params"
    table, cast = store.component_table(folder, network, dtype)

    def in_stack(path: tuple[str, ...]) -> bool:
        return path[: len(stack)] == stack

    arrays = store.open_params(folder, part, lambda shapes: table)
    layers = {path[len(stack) :]: array for path, array in arrays.items() if in_stack(path)}
    dtypes = {path: cast((*stack, *path)) for path in layers}
    with store.damage_named(folder / part):
        params = store.read_params({path: array for path, array in arrays.items() if not in_stack(path)}, cast, others)
        (depth,) = {array.shape[0] for array in layers.values()}
        packed = pack(_read_layers(layers, dtypes, depth), depth, resting)
    convert.place(params, stack, packed)
    return params


def _read_layers(arrays: Mapping[tuple[str, ...], Any], dtypes: Mapping, depth: int) -> Iterator[Params]:
    """Layers of stacked arrays, in their order, the next one being read meanwhile."""

    def begin(index: int) -> dict[tuple[str, ...], Any]:
        return {path: array[index].read() for path, array in arrays.items()} if index < depth else {}

    coming = begin(0)
    for index in range(depth):
        reads, coming = coming, begin(index + 1)
        layer: Params = {}
        for path in list(reads):
            read = reads.pop(path).result()
            convert.place(layer, path, read.astype(dtypes[path] or read.dtype, copy=False))
        yield layer


def onto_device(params: Params, device: Sharding) -> Params:
    """The parameters on a device, but for packed layers."""
    return jax.tree.map(
        lambda leaf: leaf if isinstance(leaf, PackedLayers) else jax.device_put(leaf, device),
        params,
        is_leaf=lambda leaf: isinstance(leaf, PackedLayers),
    )


def layer_bytes(folder: Path, network: str, dtype: Any, *, all_of_it: bool = False) -> int:
    """What a network's layers, or all its parameters, take in the host's memory, from its configs and provenance."""
    record = store.read_provenance(folder)["components"][network]
    stored = max((np.dtype(name) for name in record["dtypes"]), key=lambda kind: (kind.name != "int8", kind.itemsize))
    if dtype is not None:
        stored = np.dtype(dtype)
    total, stack = 0, STACKS[network]
    for leaf in convert.NETWORKS[network].table(store.load_config(folder, network)):
        if all_of_it or leaf.path[: len(stack)] == stack:
            eight = network == "dit" and "quantized" in record and is_quantized_kernel(leaf.path)
            total += math.prod(leaf.shape) * (1 if eight else stored.itemsize)
    return total


def available_host_bytes() -> int | None:
    """Memory that this machine can give to new arrays; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        (line,) = [line for line in lines if line.startswith("MemAvailable:")]
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None


def check_host_memory(folder: Path, dtype: Any, keep_text_encoder: str) -> None:
    """Checks that the host can hold the layers that are streamed, before any is loaded.

    Args:
        folder: the converted folder.
        dtype: what parameters are cast to; None: as stored.
        keep_text_encoder: as in `Pipeline`: with "host" all of it is in the host's memory, with "disk" nothing.

    Raises:
        ValueError: it cannot.
    """
    layers = layer_bytes(folder, "dit", dtype)
    needed = layers
    if keep_text_encoder != "disk":
        needed += layer_bytes(folder, "text_encoder", dtype, all_of_it=keep_text_encoder == "host")
    loading = needed + LAYERS_UNDER_WAY * layers // store.load_config(folder, "dit").depth
    available = available_host_bytes()
    if available is not None and loading > available:
        raise ValueError(
            f"weights=stream needs {loading / 1e9:.1f} GB of host memory while the weights load "
            f"({needed / 1e9:.1f} GB afterwards), {available / 1e9:.1f} GB are available: close other programs, "
            "convert with --quantize int8, or use keep_text_encoder=disk"
        )
