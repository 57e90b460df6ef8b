"""Arrays for programs of which only shapes are known, made on the device without a copy in host memory.

Their values are a hash of their place: as random as a timing needs, and one elementwise loop without temporary arrays,
so that 13.6 billion weights take a moment.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, PyTree

STACKED = ("block", "blocks")
"""Names under which the first axis counts layers."""


def random_arrays(tree: PyTree) -> PyTree:
    """A tree of ShapeDtypeStructs with arrays in their places; other leaves stay.

    Weights keep the size of what passes through them: kernels have a standard deviation of 1 / sqrt(inputs), biases
    are zero, norms one. Anything else is uniform with a standard deviation of one; masks allow everything.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    wanted = [(number, path, leaf) for number, (path, leaf) in enumerate(leaves) if _is_shape(leaf)]
    made = jax.jit(lambda: [_values(_names(path), leaf, seed=number) for number, path, leaf in wanted])()
    found = [leaf for _, leaf in leaves]
    for (number, _, _), array in zip(wanted, made, strict=True):
        found[number] = array
    return jax.tree_util.tree_unflatten(structure, found)


def _values(names: tuple[str, ...], leaf: jax.ShapeDtypeStruct, seed: int) -> Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return jnp.ones(leaf.shape, leaf.dtype)
    name = names[-1] if names else ""
    if name == "bias":
        return jnp.zeros(leaf.shape, leaf.dtype)
    if name in ("scale", "gamma", "weight") and "shared" not in names:
        return jnp.ones(leaf.shape, leaf.dtype)
    inputs = 1
    if name == "kernel":
        inputs = leaf.shape[-2] if set(names) & set(STACKED) else math.prod(leaf.shape[:-1])
    return (_uniform(leaf.shape, seed) * math.sqrt(3 / inputs)).astype(leaf.dtype)


def _uniform(shape: tuple[int, ...], seed: int) -> Array:
    """Numbers in [-1, 1): the finaliser of MurmurHash3 over the place in the array."""
    x = jnp.full(shape, seed * 0x9E3779B9 & 0xFFFFFFFF, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        x += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride & 0xFFFFFFFF)
        stride *= shape[axis]
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return ((x ^ (x >> 16)) >> 8).astype(jnp.float32) * 2.0**-23 - 1


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(str(getattr(key, "key", getattr(key, "name", ""))) for key in path)


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)
