"""Loading networks whose layers stay in the host's memory, packed as models/streamed.py wants them."""

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from lcv_jax.array_types import Params
from lcv_jax.checkpoint import store
from lcv_jax.models.quantize import is_quantized_kernel
from lcv_jax.models.streamed import PackedLayers, pack, replace_stack

STACKS: dict[str, tuple[str, ...]] = {"dit": ("blocks",), "text_encoder": ("encoder", "block")}
"""Where the layers of each network are that can be streamed."""
NEEDED_WHILE_PACKING = 2
"""Copies of a network's layers in the host's memory while it loads: as it is packed, and as it is pinned."""


def load_streamed(folder: Path, network: str, dtype: Any, resting: Sharding, others: Sharding) -> Params:
    """A network's parameters, its layers packed and resting, the others where `others` says."""
    stack = STACKS[network]

    def place(path: tuple[str, ...], shape: tuple[int, ...]) -> Sharding:
        return resting if path[: len(stack)] == stack else others

    params = store.load_component(folder, network, dtype, place)[1]
    return replace_stack(params, stack, lambda layers: pack(layers, resting))


def onto_device(params: Params, device: Sharding) -> Params:
    """The parameters on a device, but for packed layers."""
    return jax.tree.map(
        lambda leaf: leaf if isinstance(leaf, PackedLayers) else jax.device_put(leaf, device),
        params,
        is_leaf=lambda leaf: isinstance(leaf, PackedLayers),
    )


def layer_bytes(folder: Path, network: str, dtype: Any) -> int:
    """What a network's layers take in the host's memory, from its configs and provenance."""
    record = store.read_provenance(folder)["components"][network]
    stored = max((np.dtype(name) for name in record["dtypes"]), key=lambda kind: (kind.name != "int8", kind.itemsize))
    if dtype is not None:
        stored = np.dtype(dtype)
    total, stack = 0, STACKS[network]
    for leaf in store.convert.NETWORKS[network].table(store.load_config(folder, network)):
        if leaf.path[: len(stack)] == stack:
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


def check_host_memory(folder: Path, dtype: Any, networks: tuple[str, ...]) -> None:
    """Checks that the host can hold the layers of these networks, before any is loaded.

    Raises:
        ValueError: it cannot.
    """
    sizes = [layer_bytes(folder, network, dtype) for network in networks]
    needed = sum(sizes) + (NEEDED_WHILE_PACKING - 1) * max(sizes)
    available = available_host_bytes()
    if available is not None and needed > available:
        raise ValueError(
            f"weights=stream needs {needed / 1e9:.1f} GB of host memory while the weights load "
            f"({sum(sizes) / 1e9:.1f} GB afterwards), {available / 1e9:.1f} GB are available: close other programs, "
            "convert with --quantize int8, or use keep_text_encoder=disk"
        )
