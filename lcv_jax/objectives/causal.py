"""Causal fine-tuning: from a model of whole clips to one that makes a clip chunk by chunk.

A clip's latent frames are chunks. One pass sees a clean copy and a noisy copy of the clip: a noisy chunk attends to
itself and to the clean chunks before it, a clean chunk to itself and the clean chunks before it (models/attention.py).
That is what sampling/streaming.py computes with its cache, so what is trained is what is sampled. Every chunk has a
noise level of its own: diffusion forcing (Chen et al. 2024, arXiv 2407.01392), with the clean history of CausVid
(arXiv 2412.07772).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from lcv_jax.array_types import PRNGKeyArray
from lcv_jax.bounds import Count, check_fields
from lcv_jax.diffusion.flow import shift_time
from lcv_jax.objectives.drawing import ConditionNoise, TimeShift, draw_uniform, mix_frames
from lcv_jax.objectives.flow_matching import LogitNormalWeight
from lcv_jax.objectives.networks import Batch, Losses, Networks


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalFlowMatching:
    """Weighted mean squared error to the velocity x_0 - noise, of every chunk after the clean chunks before it.

        t_j = shift(u_j),    x_j = (1 - t_j) x_0 + t_j noise,    v_j = x_0 - noise    for every chunk j

    With one chunk that is flow matching, with two it is video continuation as well. Reads latents_BTHWC, text_BLD and
    text_mask_BL. No condition frames: the clean copy is the condition.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    chunk: Count = 3
    """Latent frames of a chunk, as streams will have them; a last one may be shorter."""
    shift: TimeShift = TimeShift()  # noqa: RUF009
    """Of the times towards the noise. It counts the tokens of the whole clip, as sampling's shift does."""
    weight: LogitNormalWeight = LogitNormalWeight()  # noqa: RUF009
    """Of chunks, by their time."""
    condition: ConditionNoise = ConditionNoise()  # noqa: RUF009
    """On the clean copy, so that the model learns to go on from frames that are not quite right: its own."""
    stratified: bool = True
    """Spread the times of a batch evenly, for each chunk, instead of drawing each on its own."""
    diffusion_forcing: bool = True
    """Draw a time for each chunk. False: one for all chunks of a clip, to see what that is worth."""

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, networks: Networks, batch: Batch, key: PRNGKeyArray, *, num_cond_latents: int) -> Losses:
        if num_cond_latents:
            raise ValueError(f"causal training has no condition frames, got num_cond_latents={num_cond_latents}")
        clean_BTHWC = batch["latents_BTHWC"].astype(jnp.float32)
        B, T = clean_BTHWC.shape[:2]
        num_chunks = -(-T // self.chunk)
        time_key, noise_key, level_key = jax.random.split(key, 3)

        def of_chunk(key: PRNGKeyArray) -> jax.Array:
            return draw_uniform(key, B, stratified=self.stratified)

        keys = jax.random.split(time_key, num_chunks if self.diffusion_forcing else 1)
        u_JB = jnp.broadcast_to(jax.vmap(of_chunk)(keys), (num_chunks, B))
        u_BT = jnp.repeat(u_JB.T, self.chunk, axis=1)[:, :T]
        t_BT = shift_time(u_BT, self.shift.at(clean_BTHWC.shape))
        noise_BTHWC = jax.random.normal(noise_key, clean_BTHWC.shape)
        levels_BT = self.condition.draw(level_key, B, T)
        told_BT = levels_BT if self.condition.timestep == "level" else jnp.zeros_like(levels_BT)
        level_noise_BTHWC = jax.random.normal(jax.random.fold_in(level_key, 1), clean_BTHWC.shape)
        copies = [mix_frames(clean_BTHWC, level_noise_BTHWC, levels_BT), mix_frames(clean_BTHWC, noise_BTHWC, t_BT)]
        velocity_BTHWC = networks.student(
            jnp.concatenate(copies, axis=1),
            1000 * jnp.concatenate([told_BT, t_BT], axis=1),
            batch["text_BLD"],
            batch["text_mask_BL"],
            T,
            chunk=self.chunk,
        )[:, T:]
        target_BTHWC = clean_BTHWC - noise_BTHWC
        error_BT = jnp.mean(jnp.square(velocity_BTHWC.astype(jnp.float32) - target_BTHWC), axis=(2, 3, 4))
        return Losses(jnp.mean(self.weight(u_BT) * error_BT), error_BT.mean(axis=1), t_BT.mean(axis=1))
