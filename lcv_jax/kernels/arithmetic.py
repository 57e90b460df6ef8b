"""Exponentials of the Pallas kernels: as the GPU's instructions have them, or in plain jnp.

XLA's exp2 guards against denormal results, with a comparison and two multiplications each; softmax weights below 2^-126
may as well be zero. A product and a sum are two instructions unless they are asked for as one. Pallas on Triton has
both as inline PTX only, which Pallas' interpreter does not know: there, and for float32 inputs, `fast` is False.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plt

from lcv_jax.array_types import Array


def exp2(x: Array, *, fast: bool) -> Array:
    """2^x; fast: to 2 units in the last place, denormal results are zero."""
    return _inline("ex2.approx.ftz.f32", [x]) if fast else jnp.exp2(x)


def exp2_scaled(x: Array, scale: float, minus: Array, *, fast: bool) -> Array:
    """2^(x scale - minus), where `minus` broadcasts; fast: rounded once before the exponential."""
    if not fast:
        return jnp.exp2(x * scale - minus)
    factors = [x, jnp.full(x.shape, scale, x.dtype), jnp.broadcast_to(-minus, x.shape)]
    return exp2(_inline("fma.rn.f32", factors), fast=True)


def _inline(instruction: str, x: Sequence[Array]) -> Array:
    """An instruction of PTX for every element."""
    registers = ", ".join(f"${number}" for number in range(len(x) + 1))
    (result,) = plt.elementwise_inline_asm(
        f"{instruction} {registers};",
        args=x,
        constraints=",".join(["=f", *["f"] * len(x)]),
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(x[0].shape, jnp.float32)],
    )
    return result
