"""Consistency distillation in phases: few Euler steps land where the teacher's fifty do (report section 4.3).

After Hyper-SD (Ren et al. 2024) and phased consistency models (Wang et al. 2024), without their adversarial terms. The
teacher is the student of CFGDistillation; it is followed along the 50-point grid g_0 = 1 > g_1 > ... > g_50 = 0 that
distilled schedules pick from (diffusion/schedule.py). The `num_steps` points of such a schedule are the phases' edges.

The consistency function of a phase is the Euler step that sampling will make, from x at g_k to the phase's end e:

    f(x, g_k) = x + v(x, g_k) (g_k - e),    so that f(x, e) = x by construction.

It is trained to be the same all along a trajectory of the teacher: f(x, g_k) = f_average(x', g_j), where the teacher
goes from x at g_k to x' at g_j in Euler steps of the grid, and f_average has the moving average of the student's
weights. At the last interval of a phase x' is f of the teacher itself; from there the truth spreads towards the phase's
start. Where the loss is 0, one Euler step from edge to edge ends where the teacher's small ones do, whatever x.

Divided by g_k - e, the equation is one between velocities, and its right-hand side the mean of the teacher's velocities
and the average's, weighted by the time that each covers. It is that which is compared: phases near the noise, a few
thousandths long after the shift, would not count otherwise.
"""

import dataclasses
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.array_types import Array, PRNGKeyArray
from lcv_jax.bounds import Bounds, Positive, Shift, check_fields
from lcv_jax.diffusion.schedule import DISTILLED_GRID, distilled
from lcv_jax.objectives.distances import charbonnier, mean_per_sample, squared_error
from lcv_jax.objectives.drawing import ConditionNoise, draw_noisy_clip, draw_uniform
from lcv_jax.objectives.networks import Batch, Losses, Networks, Velocity, noisy_velocity


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsistencyDistillation:
    """Distance of the student's velocity to that which leads to the end of the phase; the noisy frames only.

    The network is not told how far it is to step, so a student is exact for the `num_steps` it learnt. Edges of 4 steps
    are edges of 8 and of 16: for fewer steps, go on training from the student of more, with the same teacher. Reads
    latents_BTHWC, text_BLD and text_mask_BL.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"teacher", "average"})

    num_steps: Annotated[int, Bounds(least=1, most=DISTILLED_GRID)] = 16
    """Phases: the steps to sample with."""
    shift: Shift = 12.0
    """Of the grid: that of the schedule to sample with."""
    teacher_steps: Annotated[int, Bounds(least=1, most=DISTILLED_GRID)] = 1
    """Grid intervals that the teacher goes before the average takes over, at most to the phase's end. More cost a pass
    each and lean less on the average; from the longest phase on (4 intervals of 16 steps) it is not asked at all."""
    distance: Literal["squared", "huber"] = "squared"
    """Between velocities. Squared: where the student cannot be exact it learns the mean, as the teacher did. Huber:
    outliers count less."""
    huber_width: Positive = 0.03
    """Differences below this count squared, those above linearly."""
    condition: ConditionNoise = ConditionNoise(max_level=0.0)  # noqa: RUF009
    """On the condition frames of continuation; all networks are shown the same."""
    stratified: bool = True
    """Spread the times of a batch evenly over the grid instead of drawing each on its own."""

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, networks: Networks, batch: Batch, key: PRNGKeyArray, *, num_cond_latents: int) -> Losses:
        assert networks.teacher is not None
        assert networks.average is not None
        clean_BTHWC = batch["latents_BTHWC"].astype(jnp.float32)
        grid = jnp.array([*distilled(DISTILLED_GRID, self.shift), 0.0], jnp.float32)
        ends = phase_ends(self.num_steps)
        time_key, clip_key = jax.random.split(key)
        u_B = draw_uniform(time_key, clean_BTHWC.shape[0], stratified=self.stratified)
        start_B = jnp.minimum((DISTILLED_GRID * u_B).astype(jnp.int32), DISTILLED_GRID - 1)
        end_B = jnp.array(ends)[start_B]
        clip = draw_noisy_clip(clip_key, clean_BTHWC, grid[start_B], num_cond_latents, self.condition)

        def velocity(network: Velocity, x_BTHWC: Array, place_B: Array) -> Array:
            """Of noisy frames `x_BTHWC`, after the clip's condition frames, at points of the grid."""
            is_noisy_T = jnp.arange(clip.timesteps_BT.shape[1]) >= num_cond_latents
            return noisy_velocity(
                network,
                jnp.concatenate([clip.x_BTHWC[:, :num_cond_latents], x_BTHWC], axis=1),
                jnp.where(is_noisy_T, 1000 * grid[place_B][:, None], clip.timesteps_BT),
                batch["text_BLD"],
                batch["text_mask_BL"],
                num_cond_latents,
            )

        def between(start_B: Array, end_B: Array) -> Array:
            return (grid[start_B] - grid[end_B])[:, None, None, None, None]

        noisy_BTHWC = clip.x_BTHWC[:, num_cond_latents:]
        way_BTHWC, place_B = jnp.zeros_like(noisy_BTHWC), start_B
        for _ in range(self.teacher_steps):
            next_B = jnp.minimum(place_B + 1, end_B)
            step_BTHWC = velocity(networks.teacher, noisy_BTHWC + way_BTHWC, place_B)
            way_BTHWC, place_B = way_BTHWC + step_BTHWC * between(place_B, next_B), next_B
        if self.teacher_steps < max(np.subtract(ends, range(DISTILLED_GRID))):
            step_BTHWC = velocity(networks.average, noisy_BTHWC + way_BTHWC, place_B)
            way_BTHWC = way_BTHWC + step_BTHWC * between(place_B, end_B)
        target_BTHWC = jax.lax.stop_gradient(way_BTHWC / between(start_B, end_B))

        velocity_BTHWC = velocity(networks.student, noisy_BTHWC, start_B)
        error_B = squared_error(velocity_BTHWC, target_BTHWC)
        loss_B = error_B
        if self.distance == "huber":
            loss_B = mean_per_sample(charbonnier(velocity_BTHWC - target_BTHWC, self.huber_width))
        return Losses(jnp.mean(loss_B), error_B, grid[start_B])


def phase_ends(num_steps: int) -> tuple[int, ...]:
    """For each point of the grid of 50, at which point its phase ends: the next one that the schedule steps on."""
    grid = distilled(DISTILLED_GRID, 1.0)
    starts = [grid.index(t) for t in distilled(num_steps, 1.0)]
    return tuple(min(end for end in (*starts, DISTILLED_GRID) if end > point) for point in range(DISTILLED_GRID))
