"""The flow: x_t = (1 - t) x_0 + t noise, whose velocity v = x_0 - noise points towards the data. t = 1 is noise."""

from typing import Any

from lcv_jax.array_types import Array, Float


def shift_time(t: Any, shift: float) -> Any:
    """Times t in [0, 1] with more of them near the noise: shift t / (1 + (shift - 1) t) (Esser et al. 2024)."""
    return shift * t / (1 + (shift - 1) * t)


def mix(x0: Float[Array, "..."], noise: Float[Array, "..."], t: Float[Array, "..."] | float) -> Float[Array, "..."]:
    """The point of the flow at time t."""
    return (1 - t) * x0 + t * noise


def euler_step(
    x: Float[Array, "..."],
    velocity: Float[Array, "..."],
    t: Float[Array, "..."] | float,
    t_next: Float[Array, "..."] | float,
) -> Float[Array, "..."]:
    """From t down to t_next."""
    return x + velocity * (t - t_next)
