"""Softmax in base 2, as the hardware has it, and what the backward kernels read of a row of scores."""

import math

import jax.numpy as jnp

from lcv_jax.array_types import Array, Float

LOG2_E = math.log2(math.e)


def gradient_rows(
    out_BSNK: Float[Array, "B S N K"],
    lse_BNS: Float[Array, "B N S"],
    d_out_BSNK: Float[Array, "B S N K"],
    d_lse_BNS: Float[Array, "B N S"] | None,
) -> tuple[Float[Array, "B N S"], Float[Array, "B N S"]]:
    """The log-sum-exp in base 2, and delta: what to take from every score, and from the gradient of every weight.

    Args:
        d_lse_BNS: None is zero.
    """
    delta_BNS = jnp.einsum("bsnk,bsnk->bns", d_out_BSNK, out_BSNK, preferred_element_type=jnp.float32)
    if d_lse_BNS is not None:
        delta_BNS = delta_BNS - d_lse_BNS
    # A row without keys: exp2(x - inf) is a weight of zero, where x + inf would be infinite.
    return jnp.where(lse_BNS == -jnp.inf, jnp.inf, lse_BNS * LOG2_E), delta_BNS
