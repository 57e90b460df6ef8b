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

from lcv_jax.array_types import Array, Float, Int, PRNGKeyArray
from lcv_jax.bounds import Count, check_fields
from lcv_jax.diffusion.flow import shift_time
from lcv_jax.models.stream_window import StreamWindow
from lcv_jax.objectives.drawing import ConditionNoise, TimeShift, draw_uniform, mix_frames
from lcv_jax.objectives.flow_matching import LogitNormalWeight
from lcv_jax.objectives.networks import Batch, Losses, Networks, caption_start


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalFlowMatching:
    """Weighted mean squared error to the velocity x_0 - noise, of every chunk after the clean chunks before it.

        t_j = shift(u_j),    x_j = (1 - t_j) x_0 + t_j noise,    v_j = x_0 - noise    for every chunk j

    With one chunk that is flow matching, with two it is video continuation as well. Reads latents_BTHWC, text_BLD,
    text_mask_BL and, where captions begin later than their clips, caption_start_B: chunks before are history alone. No
    condition frames: the clean copy is the condition.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    late_captions: ClassVar[bool] = True

    chunk: Count = 3
    """Latent frames of a chunk, as streams will have them; a last one may be shorter."""
    window: StreamWindow | None = None
    """What a chunk of a stream sees. Of clips longer than that and a chunk, each sample is a part as a stream that has
    run for a while sees it: the sink and the last frames. Its last chunk is learnt. None: clips whole."""
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
        if self.window is not None and (
            self.window.chunk != self.chunk or self.window.size % self.chunk or self.window.sink % self.chunk
        ):
            raise ValueError(
                "window must have the same chunk, and sink and ring of whole chunks; "
                f"got chunk={self.chunk} and {self.window}"
            )

    def __call__(self, networks: Networks, batch: Batch, key: PRNGKeyArray, *, num_cond_latents: int) -> Losses:
        if num_cond_latents:
            raise ValueError(f"causal training has no condition frames, got num_cond_latents={num_cond_latents}")
        clean_BTHWC = batch["latents_BTHWC"].astype(jnp.float32)
        clean_BTHWC, start_B = self.part(clean_BTHWC, caption_start(batch), jax.random.fold_in(key, 3))
        B, T = clean_BTHWC.shape[:2]
        learnt_BT = jnp.arange(T) >= start_B[:, None]
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
        loss = jnp.sum(self.weight(u_BT) * error_BT * learnt_BT) / jnp.maximum(jnp.sum(learnt_BT), 1)
        share_BT = learnt_BT / jnp.maximum(jnp.sum(learnt_BT, axis=1, keepdims=True), 1)
        return Losses(loss, jnp.sum(share_BT * error_BT, axis=1), jnp.sum(share_BT * t_BT, axis=1))

    def part_length(self, num_latents: int) -> int:
        """Frames of a part."""
        return num_latents if self.window is None else min(num_latents, self.window.size + self.chunk)

    def part(
        self, clean_BTHWC: Float[Array, "B all H W C"], start_B: Int[Array, " B"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "B T H W C"], Int[Array, " B"]]:
        """Of each clip the frames that a chunk of a stream sees, and the first of them that is learnt.

        Args:
            start_B: the first latent frame that the caption describes, or the middle of a chunk that begins before.
            key: of the moment at which the stream is looked at, among those whose last chunk is described.
        """
        c, T = self.chunk, clean_BTHWC.shape[1]
        start_B = -(-start_B // c) * c
        length = self.part_length(T)
        if self.window is None or length == T:
            return clean_BTHWC, start_B
        most = (T - length) // c
        least_B = jnp.clip((start_B - length) // c + 1, 0, most)
        drawn_B = jnp.floor(jax.random.uniform(key, start_B.shape) * (most - least_B + 1)).astype(jnp.int32)
        dropped_B = c * (least_B + drawn_B)
        frame_T = jnp.arange(length)
        index_BT = jnp.where(frame_T < self.window.sink, frame_T, frame_T + dropped_B[:, None])
        part_BTHWC = jnp.take_along_axis(clean_BTHWC, index_BT[:, :, None, None, None], axis=1)
        # After frames that are left out, chunks but the last see less than they would in a stream.
        return part_BTHWC, jnp.where(dropped_B == 0, start_B, length - c)
