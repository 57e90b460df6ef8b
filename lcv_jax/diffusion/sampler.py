"""The Euler sampler: one compiled loop over the steps, for any velocity and any schedule. It knows no network."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import io_callback

from lcv_jax.array_types import Array, Float, PRNGKeyArray
from lcv_jax.diffusion.flow import euler_step, mix

Velocity = Callable[[Float[Array, "B *video"], Float[Array, ""]], Float[Array, "B *video"]]
"""(x_t, t) -> velocity towards the data."""
_BOOL = jax.ShapeDtypeStruct((), bool)


def sample(
    velocity: Velocity,
    x: Float[Array, "B *video"],
    schedule: Float[Array, " steps"],
    on_step: Callable[[Array], bool] | None = None,
) -> Float[Array, "B *video"]:
    """Follows the flow from `x` at time schedule[0] down to 0.

    Args:
        velocity: of x at time t in [0, 1].
        x: where to start, float32.
        schedule: falling times, one a step.
        on_step: called on the host after each step with the number of steps done; False ends the loop there, on all
            devices.
    """

    def advance(x: Array, t: Array, t_next: Array, number: Array) -> Array:
        return euler_step(x, velocity(x, t), t, t_next)

    return run_steps(advance, x, schedule, on_step)


def run_steps(
    advance: Callable[[Any, Array, Array, Array], Any],
    carry: Any,
    schedule: Float[Array, " steps"],
    on_step: Callable[[Array], bool] | None = None,
) -> Any:
    """The loop over the steps.

    Args:
        advance: (carry, t, time after the step, number of the step from 0) -> carry.
        carry: a tree of arrays, whose first one depends on all that a step computes.
        schedule: falling times, one a step.
        on_step: as in `sample`.
    """
    after = jnp.concatenate([schedule[1:], jnp.zeros(1, schedule.dtype)])
    if on_step is None:
        given = schedule, after, jnp.arange(schedule.shape[0])
        return jax.lax.scan(lambda carry, given: (advance(carry, *given), None), carry, given)[0]

    def step(state: tuple[Array, Array, Any]) -> tuple[Array, Array, Any]:
        number, _, carry = state
        carry = advance(carry, schedule[number], after[number], number)
        first = jax.tree.leaves(carry)[0]
        # One element makes the callback wait for the step.
        going = io_callback(lambda done, _: on_step(done), _BOOL, number + 1, first[(0,) * first.ndim])
        return number + 1, going, carry

    def is_going(state: tuple[Array, Array, Any]) -> Array:
        return (state[0] < schedule.shape[0]) & state[1]

    return jax.lax.while_loop(is_going, step, (jnp.int32(0), jnp.bool_(True), carry))[2]


def sample_renoising(
    velocity: Velocity, x: Float[Array, "B *video"], schedule: Float[Array, " steps"], key: PRNGKeyArray
) -> Float[Array, "B *video"]:
    """Predicts the clean sample at every step and adds fresh noise for the next: what models distilled to few steps do.

    x_0 = x + t v, then x = (1 - t') x_0 + t' noise (consistency sampling; CausVid, arXiv 2412.07772).
    """

    def step(x: Array, times: tuple[Array, Array, Array]) -> tuple[Array, None]:
        t, t_next, number = times
        clean = x + t * velocity(x, t)
        fresh = jax.random.normal(jax.random.fold_in(key, number), x.shape, x.dtype)
        return mix(clean, fresh, t_next), None

    after = jnp.concatenate([schedule[1:], jnp.zeros(1, schedule.dtype)])
    return jax.lax.scan(step, x, (schedule, after, jnp.arange(schedule.shape[0])))[0]
