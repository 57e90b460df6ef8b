"""Tiles in shared memory and in the registers of a warpgroup: Hopper's products, or plain jnp in the interpreter.

Pallas' Mosaic GPU interpreter has no products of registers, no sums that continue, no layouts and (JAX 0.10.2) no
transposed tiles. With `interpret` the same memory is read, so that races are found, and multiplied in jnp.
"""

import inspect
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from lcv_jax.array_types import Array

LAYOUT = plgpu.Layout.WGMMA
SWIZZLE = 128
"""Bytes of a row that shared memory permutes for TMA and products: 64 numbers of 16 bits."""
_LOAD_INDEX = inspect.signature(plgpu.load).parameters.get("idx")
LOAD_NEEDS_INDEX = _LOAD_INDEX is not None and _LOAD_INDEX.default is inspect.Parameter.empty
"""In JAX 0.10; in 0.11 it is deprecated, in 0.12 gone."""


def memory(shape: tuple[int, ...], dtype: jnp.dtype) -> Any:
    """Shared memory for tiles that are factors of products."""
    transforms = (plgpu.TilingTransform((8, SWIZZLE // 2)), plgpu.SwizzleTransform(SWIZZLE))
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def filled(shape: tuple[int, ...], value: float, *, interpret: bool) -> Array:
    """A float32 tile, or one number a row of a tile."""
    x = jnp.full(shape, value, jnp.float32)
    return x if interpret else plgpu.layout_cast(x, LAYOUT if len(shape) == 2 else LAYOUT.reduce(1))


def row_numbers(ref: Any, *, axis: int, interpret: bool) -> Array:
    """Float32 numbers in shared memory, one for every row (axis 0) or column (axis 1) of a tile."""
    if interpret:
        return ref[...]
    return plgpu.load(ref, *((),) * LOAD_NEEDS_INDEX, layout=LAYOUT.reduce(1 - axis))


def spread(x: Array, shape: tuple[int, ...], *, axis: int = 0) -> Array:
    """One number for every row (axis 0) or column (axis 1), in the whole tile."""
    return lax.broadcast_in_dim(x, shape, [axis])


def product(x: Any, y: Any, *, interpret: bool) -> Array:
    """The product x y^T in float32, of two tiles in shared memory."""
    if interpret:
        return jnp.dot(_read(x), _read(y).T, preferred_element_type=jnp.float32)

    def multiply(total: Any) -> Array:
        plgpu.wgmma(total, x, y.transpose((1, 0)))
        return total[...]

    return pl.run_scoped(multiply, plgpu.ACC((x.shape[0], y.shape[0]), jnp.float32))


def add_product(total: Array, x: Array, y: Any, *, interpret: bool) -> Array:
    """A float32 sum and the product x y, of x in registers, rounded to the type of y, and y in shared memory."""
    x = x.astype(y.dtype)
    if interpret:
        return total + jnp.dot(x, _read(y), preferred_element_type=jnp.float32)

    def multiply(total: Any) -> None:
        plgpu.wgmma(total, x, y)

    return pl.run_state(multiply)(plgpu.ACC.init(total))


def _read(x: Any) -> Array:
    """A tile as the tensor cores read it: as TMA does, so that TMA may write there next without a fence."""
    tile = x[...]
    plgpu.commit_smem()
    return tile
