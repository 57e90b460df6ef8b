"""Step caching: sampling that predicts the velocity where it changes little, instead of evaluating the network.

EasyCache's rule (Zhou et al. 2025, arXiv 2507.02860) decides which steps evaluate. At an evaluation it measures how
strongly the network's output follows the sample, `k = |w - w_c| / |x - x_c|` (means of absolute values; w is the
output for the prompt, before guidance; c is the evaluation before). Until the next evaluation it adds up the change
that this predicts, `k |x_i - x_(i-1)| / |w_c|`. A step whose sum stays below the threshold is skipped.

In place of the rule's own estimate, skipped steps extrapolate the velocity to first order in time from the last two
evaluations. The next evaluation corrects them: the sample moves to where it would be had the velocity been interpolated
between the evaluations around them. (On the small model that is worth 12 dB, and it costs nothing.)

Between evaluations the velocity is linear in time, so `x - x_c` is a combination of the last velocity and its slope.
These two, each of the sample's size, and `w_c` are all that is kept.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Bool, Float
from lcv_jax.diffusion.flow import euler_step
from lcv_jax.diffusion.sampler import run_steps

WatchedVelocity = Callable[[Float[Array, "B *video"], Float[Array, ""]], tuple[Float[Array, "B *video"], Array]]
"""(x_t, t) -> velocity towards the data, and the output whose changes decide, of which a part is enough."""

FIRST_STEPS, LAST_STEPS = 8, 2
"""Steps that always evaluate: the first decide the layout, the last have no later step to correct them."""
FEWEST_STEPS = 20
"""Schedules with fewer steps leave too little between two of them to skip."""


class _Kept(NamedTuple):
    """What the steps carry. "c" is the last step that evaluated."""

    x: Array
    velocity: Array
    """At c."""
    watched: Array
    """`w_c`"""
    slope: Array
    """Of the velocity in time, from the last two evaluations."""
    time: Array
    """At c."""
    rate: Array
    """`k`"""
    error: Array
    """Relative change that is expected since c."""
    moved: Array
    """Mean absolute change of the sample in the step before."""
    along: Array
    """`x - x_c = along * velocity + bent * slope`"""
    bent: Array
    evaluated: Array
    """Which steps evaluated."""


def sample_with_step_cache(
    velocity: WatchedVelocity,
    x: Float[Array, "B *video"],
    schedule: Float[Array, " steps"],
    threshold: Float[Array, ""],
    on_step: Callable[[Array], bool] | None = None,
) -> tuple[Float[Array, "B *video"], Bool[Array, " steps"]]:
    """Follows the flow as `sampler.sample` does, with fewer evaluations; all samples of the batch skip together.

    Args:
        velocity: of x at time t in [0, 1], and what decides.
        x: where to start, float32.
        schedule: falling times, one a step.
        threshold: expected relative change at which a step evaluates; 0 evaluates at all steps.
        on_step: as in `sampler.sample`.

    Returns:
        The sample, and which steps evaluated the velocity.
    """
    steps = schedule.shape[0]

    def step(kept: _Kept, t: Array, t_next: Array, number: Array) -> _Kept:
        always = (number < FIRST_STEPS) | (number >= steps - LAST_STEPS)
        since = t - kept.time
        error = kept.error + kept.rate * kept.moved / _mean(kept.watched)
        evaluates = always | (error >= threshold)
        v, watched = jax.lax.cond(
            evaluates,
            lambda: velocity(kept.x, t),
            lambda: (kept.velocity + since * kept.slope, kept.watched),
        )
        slope = (v - kept.velocity) / since
        fresh = _Kept(
            x=kept.x + kept.bent * (slope - kept.slope),
            velocity=v,
            watched=watched,
            slope=slope,
            time=t,
            rate=_mean(watched - kept.watched) / _mean(kept.along * kept.velocity + kept.bent * kept.slope),
            error=jnp.zeros_like(error),
            moved=kept.moved,
            along=jnp.zeros_like(kept.along),
            bent=jnp.zeros_like(kept.bent),
            evaluated=kept.evaluated,
        )
        kept = jax.tree.map(lambda new, old: jnp.where(evaluates, new, old), fresh, kept._replace(error=error))
        dt = t - t_next
        return kept._replace(
            x=euler_step(kept.x, v, t, t_next),
            moved=dt * _mean(v),
            along=kept.along + dt,
            bent=kept.bent + (t - kept.time) * dt,
            evaluated=kept.evaluated.at[number].set(evaluates),
        )

    zero, one = jnp.zeros((), x.dtype), jnp.ones((), x.dtype)
    none = jnp.zeros_like(x)
    nothing = jnp.zeros_like(jax.eval_shape(velocity, x, schedule[0])[1])
    start = _Kept(x, none, nothing, none, schedule[0] + 1, zero, zero, zero, one, zero, jnp.ones(steps, bool))
    kept = run_steps(step, start, schedule, on_step)
    return kept.x, kept.evaluated


def _mean(x: Array) -> Array:
    """Mean absolute value, never 0: the first step divides by those of arrays that are not there yet."""
    return jnp.maximum(jnp.mean(jnp.abs(x)), jnp.finfo(x.dtype).tiny)
