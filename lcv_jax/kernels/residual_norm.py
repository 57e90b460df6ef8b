"""A gated residual and the layer norm of the sum, in one pass over the tokens.

    name               runs on
    xla                anything: the formulas below, two passes over memory
    pallas_triton      GPUs: residual_norm_kernel.py, one pass
    pallas_interpret   anything, slowly: the same kernel in Pallas' interpreter

The kernel's gradient is the formulas'.
"""

import functools
import math

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Float
from lcv_jax.kernels.block_order import TokenOrder
from lcv_jax.kernels.implementations import KERNEL_DTYPES, goes_with

MAX_CHANNELS = 8192
MAX_TILE = 16
EPSILON = 1e-6


def layer_norm(x: Float[Array, "*batch D"], epsilon: float = EPSILON) -> Float[Array, "*batch D"]:
    """Layer norm over the last axis without scale and shift; returns float32."""
    x = x.astype(jnp.float32)
    x -= jnp.mean(x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon)


def affine_layer_norm(
    x: Float[Array, "*batch D"], weight_D: Float[Array, " D"], bias_D: Float[Array, " D"]
) -> Float[Array, "*batch D"]:
    """Layer norm over the last axis with weight and bias, all in float32; returns the input's dtype."""
    return (layer_norm(x) * weight_D.astype(jnp.float32) + bias_D.astype(jnp.float32)).astype(x.dtype)


def residual_norm(
    x_BSD: Float[Array, "B S D"],
    branch_BSD: Float[Array, "B S D"],
    gate_BTD: Float[Array, "B T D"],
    weight_D: Float[Array, " D"],
    bias_D: Float[Array, " D"],
    *,
    order: TokenOrder,
    implementation: str = "auto",
) -> tuple[Float[Array, "B S D"], Float[Array, "B S D"]]:
    """X + gate * branch with one gate a frame, added up in float32, and `affine_layer_norm` of the rounded sum.

    Args:
        order: of the tokens; it says which frame each is of.
        implementation: of attention (kernels/implementations.py), whose kernels this goes with: XLA computes it for
            `xla`, and wherever the kernel cannot.
    """
    given = x_BSD, branch_BSD, gate_BTD, weight_D, bias_D
    named = choose(implementation, x_BSD)
    if named == "xla":
        return _formula(order, *given)
    return _in_one_pass(named == "pallas_interpret", order, *given)


def choose(implementation: str, x_BSD: Array) -> str:
    """What computes `residual_norm` where attention's implementation is this one: a name of the module's table."""
    channels = x_BSD.shape[-1]
    takes = x_BSD.dtype.name in KERNEL_DTYPES and channels & (channels - 1) == 0 and 16 <= channels <= MAX_CHANNELS
    return goes_with(implementation, takes=takes and x_BSD.size > 0)


def _formula(
    order: TokenOrder, x_BSD: Array, branch_BSD: Array, gate_BTD: Array, weight_D: Array, bias_D: Array
) -> tuple[Array, Array]:
    gated = order.frame_view(branch_BSD.astype(jnp.float32)) * order.per_frame(gate_BTD.astype(jnp.float32))
    sum_BSD = (x_BSD.astype(jnp.float32) + gated.reshape(x_BSD.shape)).astype(x_BSD.dtype)
    return sum_BSD, affine_layer_norm(sum_BSD, weight_D, bias_D)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _in_one_pass(
    interpret: bool,
    order: TokenOrder,
    x_BSD: Array,
    branch_BSD: Array,
    gate_BTD: Array,
    weight_D: Array,
    bias_D: Array,
) -> tuple[Array, Array]:
    from lcv_jax.kernels import residual_norm_kernel  # Pallas

    frames_I = jnp.asarray(order.frames()[:: math.gcd(order.run_length(), MAX_TILE)])
    given = x_BSD, branch_BSD, gate_BTD, weight_D, bias_D
    return residual_norm_kernel.forward(frames_I, *given, EPSILON, interpret=interpret)


def _forward(interpret: bool, order: TokenOrder, *given: Array) -> tuple:
    return _in_one_pass(interpret, order, *given), given


def _backward(interpret: bool, order: TokenOrder, given: tuple, gradients: tuple) -> tuple:
    return jax.vjp(functools.partial(_formula, order), *given)[1](gradients)


_in_one_pass.defvjp(_forward, _backward)
