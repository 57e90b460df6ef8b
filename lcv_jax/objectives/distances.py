"""How far two arrays are apart."""

import jax.numpy as jnp

from lcv_jax.array_types import Array, Float


def mean_per_sample(x: Float[Array, "B *rest"]) -> Float[Array, " B"]:
    """The mean over all but the first axis."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))


def squared_error(x: Float[Array, "B *rest"], target: Float[Array, "B *rest"]) -> Float[Array, " B"]:
    """Mean squared error of each sample."""
    return mean_per_sample(jnp.square(x - target))


def charbonnier(difference: Float[Array, "*shape"], width: float) -> Float[Array, "*shape"]:
    """Sqrt(d^2 + width^2) - width: the absolute value, quadratic (d^2 / 2 width) within about `width` of 0.

    Also known as pseudo-Huber.
    """
    return jnp.sqrt(jnp.square(difference) + width**2) - width
