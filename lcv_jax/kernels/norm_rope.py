"""RMS norm and rotary embedding of queries or keys, and the means of their blocks, in one pass.

    name               runs on
    xla                anything: the formulas below, some passes over memory
    pallas_triton      GPUs: norm_rope_kernel.py, one pass
    pallas_interpret   anything, slowly: the same kernel in Pallas' interpreter

The kernel's gradient is the formulas'.
"""

import functools

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Float
from lcv_jax.kernels.block_select import pool_blocks
from lcv_jax.kernels.implementations import KERNEL_DTYPES, goes_with

KERNEL_WIDTHS = (16, 32, 64, 128, 256)


def rms_norm(x: Float[Array, "*batch D"], weight_D: Float[Array, " D"], epsilon: float) -> Float[Array, "*batch D"]:
    """Root-mean-square norm over the last axis: float32 inside, cast back, then the weight (in the order published)."""
    wide = x.astype(jnp.float32)
    wide *= jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + epsilon)
    return wide.astype(x.dtype) * weight_D.astype(x.dtype)


def rotate(
    x_BSNK: Float[Array, "B S N K"], cos_SH: Float[Array, "S half"], sin_SH: Float[Array, "S half"]
) -> Float[Array, "B S N K"]:
    """Turns the neighbouring pairs (x0, x1), (x2, x3), ... by a token's angles, in float32."""
    cos_S1H, sin_S1H = cos_SH[:, None, :], sin_SH[:, None, :]
    pairs = x_BSNK.astype(jnp.float32).reshape(*x_BSNK.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([even * cos_S1H - odd * sin_S1H, odd * cos_S1H + even * sin_S1H], axis=-1)
    return turned.reshape(x_BSNK.shape).astype(x_BSNK.dtype)


def norm_rope(
    x_BSNK: Float[Array, "B S N K"],
    weight_K: Float[Array, " K"],
    cos_SH: Float[Array, "S half"],
    sin_SH: Float[Array, "S half"],
    *,
    epsilon: float = 1e-6,
    block: int | None = None,
    implementation: str = "auto",
) -> tuple[Float[Array, "B S N K"], Float[Array, "B I N K"] | None]:
    """`rotate` of `rms_norm`, and with `block` the mean of every so many consecutive tokens of that.

    Args:
        cos_SH, sin_SH: not differentiated.
        block: tokens of a block, which divide S. The means are float32 and not differentiated.
        implementation: of attention (kernels/implementations.py), whose kernels this goes with: XLA computes it for
            `xla`, and wherever the kernel cannot.
    """
    named = choose(implementation, x_BSNK)
    if named == "xla":
        rotated_BSNK = rotate(rms_norm(x_BSNK, weight_K, epsilon), cos_SH, sin_SH)
        return rotated_BSNK, None if block is None else pool_blocks(jax.lax.stop_gradient(rotated_BSNK), block)
    return _in_one_pass(named == "pallas_interpret", epsilon, block, x_BSNK, weight_K, cos_SH, sin_SH)


def choose(implementation: str, x_BSNK: Array) -> str:
    """What computes `norm_rope` where attention's implementation is this one: a name of the module's table."""
    takes = x_BSNK.dtype.name in KERNEL_DTYPES and x_BSNK.shape[-1] in KERNEL_WIDTHS and x_BSNK.size > 0
    return goes_with(implementation, takes=takes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _in_one_pass(
    interpret: bool, epsilon: float, block: int | None, x_BSNK: Array, weight_K: Array, cos_SH: Array, sin_SH: Array
) -> tuple[Array, Array | None]:
    from lcv_jax.kernels import norm_rope_kernel  # Pallas

    return norm_rope_kernel.forward(x_BSNK, weight_K, cos_SH, sin_SH, epsilon, block, interpret=interpret)


def _forward(interpret: bool, epsilon: float, block: int | None, *primals: Array) -> tuple:
    return _in_one_pass(interpret, epsilon, block, *primals), primals


def _backward(interpret: bool, epsilon: float, block: int | None, primals: tuple, gradients: tuple) -> tuple:
    x_BSNK, weight_K, cos_SH, sin_SH = primals

    def formula(x_BSNK: Array, weight_K: Array) -> Array:
        return rotate(rms_norm(x_BSNK, weight_K, epsilon), cos_SH, sin_SH)

    return *jax.vjp(formula, x_BSNK, weight_K)[1](gradients[0]), None, None


_in_one_pass.defvjp(_forward, _backward)
