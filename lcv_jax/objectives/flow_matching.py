"""Flow matching: the objective of pretraining and fine-tuning (report section 4.1)."""

import dataclasses
import math
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Float, PRNGKeyArray
from lcv_jax.bounds import Bounds, Share, check_fields
from lcv_jax.diffusion.flow import shift_time
from lcv_jax.objectives.distances import squared_error
from lcv_jax.objectives.drawing import ConditionNoise, TimeShift, draw_noisy_clip, draw_uniform
from lcv_jax.objectives.networks import Batch, Losses, Networks, noisy_velocity


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitNormalWeight:
    """A weight of samples by their time: `floor` + (1 - `floor`) times the density of the logit-normal distribution.

    It is a function of u, the uniform time before the shift, where its mean is 1. So the expected loss is, but for the
    floor, the one whose u is drawn from the logit-normal and then shifted, as Esser et al. do; the report draws u
    evenly and weights instead because that is steadier. (At the shifted t, the weight would fall where the shift puts
    most samples, and undo it.)
    """

    mean: Annotated[float, Bounds(least=-100, most=100)] = 0.0
    """Of the logit of u: above 0 prefers noise."""
    std: Annotated[float, Bounds(above=0, most=math.sqrt(2))] = 1.0
    """Of the logit of u. At 1 no weight exceeds 1.6."""
    floor: Share = 0.2
    """The weight at both ends, where the density is 0: sampling starts at one and finishes at the other, so that both
    have to be learnt. 1: no weighting."""

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The weight of samples whose time, before the shift, is u."""
        u = jnp.clip(u, 1e-6, 1 - 1e-6)  # the density is 0 there already; its formula is 0/0 at the ends
        logit = jnp.log(u) - jnp.log1p(-u)
        exponent = -0.5 * jnp.square((logit - self.mean) / self.std) - jnp.log(u) - jnp.log1p(-u)
        density = jnp.exp(exponent) / (self.std * math.sqrt(2 * math.pi))
        return self.floor + (1 - self.floor) * density


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowMatching:
    """Weighted mean squared error to the velocity x_0 - noise, over the noisy frames only.

    Reads latents_BTHWC, text_BLD and text_mask_BL.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    shift: TimeShift = TimeShift()  # noqa: RUF009
    """Of the times towards the noise."""
    weight: LogitNormalWeight = LogitNormalWeight()
    """Of samples, by their time."""
    condition: ConditionNoise = ConditionNoise()  # noqa: RUF009
    """On the condition frames of continuation."""
    stratified: bool = True
    """Spread the times of a batch evenly instead of drawing each on its own."""

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, networks: Networks, batch: Batch, key: PRNGKeyArray, *, num_cond_latents: int) -> Losses:
        clean_BTHWC = batch["latents_BTHWC"].astype(jnp.float32)
        time_key, clip_key = jax.random.split(key)
        u_B = draw_uniform(time_key, clean_BTHWC.shape[0], stratified=self.stratified)
        t_B = shift_time(u_B, self.shift.at(clean_BTHWC[:, num_cond_latents:].shape))
        clip = draw_noisy_clip(clip_key, clean_BTHWC, t_B, num_cond_latents, self.condition)
        velocity_BTHWC = noisy_velocity(
            networks.student,
            clip.x_BTHWC,
            clip.timesteps_BT,
            batch["text_BLD"],
            batch["text_mask_BL"],
            num_cond_latents,
        )
        error_B = squared_error(velocity_BTHWC, (clean_BTHWC - clip.noise_BTHWC)[:, num_cond_latents:])
        return Losses(jnp.mean(self.weight(u_B) * error_B), error_B, t_B)
