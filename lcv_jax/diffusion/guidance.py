"""CFG-Zero guidance (Fan et al. 2025): classifier-free guidance whose unconditional part is rescaled to fit."""

import jax.numpy as jnp

from lcv_jax.array_types import Array, Float


def cfg_zero(
    with_prompt: Float[Array, "B *video"], without: Float[Array, "B *video"], scale: float | Float[Array, ""]
) -> Float[Array, "B *video"]:
    """S v_u + scale (v_c - s v_u) with s = <v_c, v_u> / (|v_u|^2 + 1e-8), one s a sample.

    Give velocities of the noisy frames only: condition frames have none, and would count in s. (The published code lets
    them, without its cache, and mixes up samples of a batch.)
    """
    axes = tuple(range(1, with_prompt.ndim))
    product = jnp.sum(with_prompt * without, axis=axes, keepdims=True)
    fitted = without * (product / (jnp.sum(without * without, axis=axes, keepdims=True) + 1e-8))
    return fitted + scale * (with_prompt - fitted)
