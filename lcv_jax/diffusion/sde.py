"""One step of the flow with fresh noise: the same marginals as without, and a density to search by (report A.1).

The flow's score at time t is minus the noise that is in x_t, over t. With sigma the diffusion coefficient, a step from
t to t - dt is normal with mean

    mu = x_t + dt [ v (1 + sigma^2 (1 - t) / (2 t)) - sigma^2 x_t / (2 t) ]

and standard deviation s = sigma sqrt(dt). All is written with s here, the one number that truncation changes:
mu = x_t + dt v + s^2 (v (1 - t) - x_t) / (2 t).
"""

from typing import Any

import jax.numpy as jnp

from lcv_jax.array_types import Array, Float

ALMOST_NOISE = 1e-6
"""1 - t is never less than this where sigma is computed: at t = 1 it is infinite before it is truncated."""


def deviation(t: Any, dt: Any, *, amplitude: float = 1.0, threshold: float | None = 0.45) -> Array:
    """The step's deviation: s = sigma sqrt(dt) for sigma = amplitude sqrt(t / (1 - t)), at most `threshold`."""
    s = amplitude * jnp.sqrt(dt * t / jnp.maximum(1 - t, ALMOST_NOISE))
    return s if threshold is None else jnp.minimum(s, threshold)


def mean(x: Float[Array, "..."], velocity: Float[Array, "..."], t: Any, dt: Any, s: Any) -> Float[Array, "..."]:
    """mu, where the step goes on average."""
    return x + dt * velocity + s**2 / (2 * t) * ((1 - t) * velocity - x)


def gain(t: Any, dt: Any, s: Any) -> Any:
    """How far mu moves for a velocity that changes by one: dt without noise."""
    return dt + s**2 * (1 - t) / (2 * t)


def weight(t: Any, dt: Any, s: Any) -> Any:
    """What a policy's loss is multiplied by so that its gradient is the same at all times (report, equation 36).

    3 s / (2 gain): then the gradient of -weight * A * log p is -3/2 A z dv, and that of weight^2 * KL is
    9/4 (v - v_ref) dv. Without truncation and with amplitude 1 it is sqrt(t / (dt (1 - t))), as published. That is
    infinite at t = 1, where this is 3 s / (2 dt): the published gradients hold there too.
    """
    return 3 * s / (2 * gain(t, dt, s))
