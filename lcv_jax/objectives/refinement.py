"""The refinement expert: flow matching from an upsampled clip instead of from noise (report section 3.4.1)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from lcv_jax.array_types import PRNGKeyArray
from lcv_jax.bounds import NoiseLevel, check_fields
from lcv_jax.diffusion.flow import mix
from lcv_jax.objectives.distances import squared_error
from lcv_jax.objectives.drawing import draw_uniform, frame_times, mix_frames
from lcv_jax.objectives.networks import Batch, Losses, Networks, noisy_velocity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refinement:
    """Mean squared error to the velocity of the straight path from the noisy upsampled clip to the true one.

        x_thresh = (1 - t_thresh) x_up + t_thresh noise,    x_t = x_0 + (x_thresh - x_0) t / t_thresh,
        v = (x_0 - x_thresh) / t_thresh,    t uniform in [0, t_thresh]

    The division keeps the velocity in the range that the base model knows; at t_thresh = 1 this is flow matching.
    Condition frames are clean and of the true clip. The noisy frames only. Reads latents_BTHWC, upsampled_BTHWC (the
    degraded clip at the same size), text_BLD and text_mask_BL.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    t_thresh: NoiseLevel = 0.5
    """The noise level that sampling will start from."""
    stratified: bool = True
    """Spread the times of a batch evenly instead of drawing each on its own."""

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, networks: Networks, batch: Batch, key: PRNGKeyArray, *, num_cond_latents: int) -> Losses:
        clean_BTHWC = batch["latents_BTHWC"].astype(jnp.float32)
        upsampled_BTHWC = batch["upsampled_BTHWC"].astype(jnp.float32)
        noise_key, time_key = jax.random.split(key)
        noise_BTHWC = jax.random.normal(noise_key, clean_BTHWC.shape)
        threshold_BTHWC = mix(upsampled_BTHWC, noise_BTHWC, self.t_thresh)
        B, T = clean_BTHWC.shape[:2]
        t_B = self.t_thresh * draw_uniform(time_key, B, stratified=self.stratified)
        t_BT = frame_times(jnp.zeros((B, num_cond_latents)), t_B, T)
        velocity_BTHWC = noisy_velocity(
            networks.student,
            mix_frames(clean_BTHWC, threshold_BTHWC, t_BT / self.t_thresh),
            1000 * t_BT,
            batch["text_BLD"],
            batch["text_mask_BL"],
            num_cond_latents,
        )
        target_BTHWC = (clean_BTHWC - threshold_BTHWC) / self.t_thresh
        error_B = squared_error(velocity_BTHWC, target_BTHWC[:, num_cond_latents:])
        return Losses(jnp.mean(error_B), error_B, t_B)
