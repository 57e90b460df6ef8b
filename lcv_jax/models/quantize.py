"""Eight-bit weights: int8 kernels with a float32 scale per output channel, for the linear layers of the blocks.

A quantized layer holds `{"kernel": int8 (in, out), "scale": float32 (out,)}`, and `Linear` (layers.py) multiplies with
the integers and scales the product, so that weights are rounded once. Modulation, norms, embedders and the final layer
stay as they are: they are small, and errors in them reach all tokens. int8 with such scales is more exact than float8
of the same size: e4m3 has 3 bits of fraction, whatever its scale.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.array_types import Array, Float, Int8, Params

MODULES = ("attn", "cross_attn", "ffn")
LARGEST = 127


def is_quantized_kernel(path: tuple[str, ...]) -> bool:
    """Whether a parameter of the transformer is one of those that are quantized."""
    return path[0] == "blocks" and path[1] in MODULES and path[-1] == "kernel"


def scale_path(path: tuple[str, ...]) -> tuple[str, ...]:
    """Where the scales of a kernel are."""
    return (*path[:-1], "scale")


def quantize_kernel(
    kernel: Float[Array | np.ndarray, "*lead in out"],
) -> tuple[Int8[Array | np.ndarray, "*lead in out"], Float[Array | np.ndarray, "*lead out"]]:
    """The nearest integers and their scales; NumPy arrays give NumPy arrays."""
    xp: Any = np if isinstance(kernel, np.ndarray) else jnp
    wide = kernel.astype(xp.float32)
    scale = xp.max(xp.abs(wide), axis=-2) / xp.float32(LARGEST)
    scale = xp.where(scale > 0, scale, xp.float32(1))  # a channel of zeros
    return xp.rint(wide / scale[..., None, :]).astype(xp.int8), scale


def quantize(params: Params) -> Params:
    """The transformer's parameters with the blocks' linear layers quantized."""

    def walk(tree: Mapping[str, Any], path: tuple[str, ...]) -> Params:
        made: Params = {}
        for name, value in tree.items():
            here = (*path, name)
            if isinstance(value, Mapping):
                made[name] = walk(value, here)
            elif is_quantized_kernel(here):
                made["kernel"], made["scale"] = quantize_kernel(value)
            else:
                made[name] = value
        return made

    return walk(params, ())


def is_quantized(params: Params) -> bool:
    """Whether a transformer's parameters, or their shapes, have quantized layers."""
    return any(leaf.dtype == jnp.int8 for leaf in jax.tree.leaves(params))
