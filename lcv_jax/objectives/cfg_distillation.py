"""Distillation of guidance: one pass of the student is CFG-Zero of the teacher's two (report section 4.3)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from lcv_jax.array_types import PRNGKeyArray
from lcv_jax.bounds import GuidanceScale, Shift, check_fields
from lcv_jax.diffusion.flow import shift_time
from lcv_jax.diffusion.guidance import cfg_zero
from lcv_jax.objectives.distances import squared_error
from lcv_jax.objectives.drawing import ConditionNoise, draw_noisy_clip, draw_uniform
from lcv_jax.objectives.networks import Batch, Losses, Networks, noisy_velocity


@dataclasses.dataclass(frozen=True, kw_only=True)
class CFGDistillation:
    """Mean squared error to the teacher's guided velocity, over the noisy frames only.

    The guided velocity does not know which caption it was dropped from: batches should keep their captions, for the
    student will be asked with one. Reads latents_BTHWC, text_BLD, text_mask_BL, negative_text_1LD and negative_mask_1L.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"teacher", "negative_text"})

    guidance_scale: GuidanceScale = 4.0
    """Of CFG-Zero."""
    shift: Shift = 12.0
    """Of the times, uniform before it: that of the schedules to sample with, at every size."""
    condition: ConditionNoise = ConditionNoise(max_level=0.0)  # noqa: RUF009
    """On the condition frames of continuation; student and teacher are shown the same."""
    stratified: bool = True
    """Spread the times of a batch evenly instead of drawing each on its own."""

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, networks: Networks, batch: Batch, key: PRNGKeyArray, *, num_cond_latents: int) -> Losses:
        assert networks.teacher is not None
        clean_BTHWC = batch["latents_BTHWC"].astype(jnp.float32)
        text_BLD, mask_BL = batch["text_BLD"], batch["text_mask_BL"]
        B = clean_BTHWC.shape[0]
        negative_BLD, negative_mask_BL = (
            jnp.broadcast_to(batch[name], (B, *batch[name].shape[1:]))
            for name in ("negative_text_1LD", "negative_mask_1L")
        )
        time_key, clip_key = jax.random.split(key)
        t_B = shift_time(draw_uniform(time_key, B, stratified=self.stratified), self.shift)
        clip = draw_noisy_clip(clip_key, clean_BTHWC, t_B, num_cond_latents, self.condition)
        shown = clip.x_BTHWC, clip.timesteps_BT
        with_prompt = noisy_velocity(networks.teacher, *shown, text_BLD, mask_BL, num_cond_latents)
        without = noisy_velocity(networks.teacher, *shown, negative_BLD, negative_mask_BL, num_cond_latents)
        guided_BTHWC = jax.lax.stop_gradient(cfg_zero(with_prompt, without, self.guidance_scale))
        velocity_BTHWC = noisy_velocity(networks.student, *shown, text_BLD, mask_BL, num_cond_latents)
        error_B = squared_error(velocity_BTHWC, guided_BTHWC)
        return Losses(jnp.mean(error_B), error_B, t_B)
