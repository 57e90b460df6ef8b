"""Layers whose weights rest in the host's memory and are copied to the device one layer ahead.

A scanned stack's parameters are packed, a layer to a row: one copy a layer, which XLA can have under way while the
layer before computes (of two dozen copies a layer it would wait for all but the last). A row is bytes, so that
integers, scales and floats travel together. Where a module finds `PackedLayers` in place of its stack's parameters,
it runs `run_layers` instead of a scan, to the same result.

The copy is asynchronous only if the row's index is plainly made of the loop's counter, the program is compiled with
`OVERLAP`, and what the layer computes is one thing to the scheduler, such as an inner loop over the batch.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding

from lcv_jax.array_types import Array, Params, PyTree

OVERLAP: dict[str, Any] = {"xla_gpu_enable_latency_hiding_scheduler": True}
"""Compiler options; without them a copy stands right before its use. Other backends ignore them."""
PINNED = "pinned_host"
ALIGNMENT = 256
"""Bytes at which every array of a row begins."""

Field = tuple[tuple[str, ...], tuple[int, ...], str]
"""Path, shape and dtype of one array of a layer."""


@flax.struct.dataclass
class PackedLayers:
    """A stack of layers, a row of bytes each."""

    rows_PN: Any
    """uint8; an array, or its shape and sharding."""
    fields: tuple[Field, ...] = flax.struct.field(pytree_node=False)

    def layer(self, row_N: Array) -> Params:
        """One layer's parameters from its row."""
        found = {}
        for (path, shape, dtype), start in zip(self.fields, _starts(self.fields), strict=True):
            found[path] = _from_bytes(jax.lax.slice(row_N, (start,), (start + _size(shape, dtype),)), shape, dtype)
        return flax.traverse_util.unflatten_dict(found)


def run_layers(packed: PackedLayers, layer: Callable[[Params, PyTree, Array], PyTree], carry: PyTree) -> PyTree:
    """Runs (parameters, carry, index) -> carry over all layers, with the next layer's row under way."""
    P, N = packed.rows_PN.shape

    def fetch(index: Array) -> Array:
        row = jax.lax.dynamic_slice(packed.rows_PN, (index, jnp.int32(0)), (1, N))
        return jax.device_put(jax.lax.squeeze(row, (0,)), jax.memory.Space.Device)

    def step(index: Array, state: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
        carry, here = state
        coming = fetch(jax.lax.rem(index + 1, jnp.int32(P)))
        return layer(packed.layer(here), carry, index), coming

    return jax.lax.fori_loop(0, P, step, (carry, fetch(jnp.int32(0))))[0]


def at_layer(tree: PyTree, index: Array) -> PyTree:
    """One layer of stacked arrays."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), tree)


def fields_of(stack: Params) -> tuple[Field, ...]:
    """The arrays of one layer of stacked parameters, or of their shapes."""
    flat = flax.traverse_util.flatten_dict(stack)
    return tuple((path, tuple(leaf.shape[1:]), np.dtype(leaf.dtype).name) for path, leaf in sorted(flat.items()))


def row_bytes(fields: tuple[Field, ...]) -> int:
    """Of one layer."""
    return _ends(fields)[-1]


def pack(layers: Iterable[Params], depth: int, resting: Sharding) -> PackedLayers:
    """Packs so many layers, each dropped once it is in its row: the host holds all rows once, and a layer or two more.

    The rows are written in place where they rest (a donated argument), by way of the device.
    """
    layers = iter(layers)
    first = next(layers)
    fields = fields_of(jax.tree.map(lambda leaf: leaf[None], first))
    # Pages of zeros that nobody wrote take no memory.
    rows_PN = jax.device_put(np.zeros((depth, row_bytes(fields)), np.uint8), resting)
    for index, row_N in enumerate(_row(layer, fields) for layer in itertools.chain([first], layers)):
        rows_PN = _write_row(rows_PN, row_N, np.int32(index))
        rows_PN.block_until_ready()  # or all layers would wait in memory for their turn
    return PackedLayers(rows_PN, fields)


@functools.partial(jax.jit, donate_argnums=0)
def _write_row(rows_PN: Array, row_N: Array, index: Array) -> Array:
    row_N = jax.device_put(row_N, jax.memory.Space.Host)
    return jax.lax.dynamic_update_slice(rows_PN, row_N[None], (index, jnp.int32(0)))


def _row(layer: Params, fields: tuple[Field, ...]) -> np.ndarray:
    flat, row_N = flax.traverse_util.flatten_dict(layer), np.zeros(row_bytes(fields), np.uint8)
    for (path, shape, dtype), start in zip(fields, _starts(fields), strict=True):
        row_N[start : start + _size(shape, dtype)] = np.ascontiguousarray(flat[path]).reshape(-1).view(np.uint8)
    return row_N


def packed_shapes(stack: Params) -> PackedLayers:
    """What `pack` gives for stacked parameters of these shapes."""
    fields, depth = fields_of(stack), jax.tree.leaves(stack)[0].shape[0]
    return PackedLayers(jax.ShapeDtypeStruct((depth, row_bytes(fields)), jnp.uint8), fields)


def replace_stack(params: Params, path: tuple[str, ...], make: Callable[[Params], Any]) -> Params:
    """Parameters with `make` of the stack at this path in its place."""
    name, *rest = path
    made = replace_stack(params[name], tuple(rest), make) if rest else make(params[name])
    return {**params, name: made}


def resting_place(device: jax.Device | None = None) -> SingleDeviceSharding | None:
    """Pinned memory of the host, which the device copies from; None: the backend has none."""
    device = device or jax.devices()[0]
    kinds = {memory.kind for memory in device.addressable_memories()}
    return SingleDeviceSharding(device, memory_kind=PINNED) if PINNED in kinds else None


def _size(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape) * jnp.dtype(dtype).itemsize


def _ends(fields: tuple[Field, ...]) -> list[int]:
    ends, end = [], 0
    for _, shape, dtype in fields:
        end += math.ceil(_size(shape, dtype) / ALIGNMENT) * ALIGNMENT
        ends.append(end)
    return ends


def _starts(fields: tuple[Field, ...]) -> list[int]:
    return [0, *_ends(fields)[:-1]]


def _from_bytes(part_N: Array, shape: tuple[int, ...], dtype: str) -> Array:
    kind = jnp.dtype(dtype)
    apart = part_N.reshape(*shape, kind.itemsize) if kind.itemsize > 1 else part_N.reshape(shape)
    return jax.lax.bitcast_convert_type(apart, kind)
