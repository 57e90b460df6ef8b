"""Distillation of a causal model to few steps on its own rollouts, by distribution matching.

Self Forcing (Huang et al. 2025, arXiv 2506.08009) with the distribution matching of DMD2 (Yin et al. 2024, arXiv
2405.14867). The student makes a clip as a stream does, chunk by chunk against the keys and values of its own clean
chunks (sampling/streaming.py), in schedules t_1 = 1 > ... > t_n that end at a step s drawn for each rollout: chunk j is
xh_j = x + t_s v(x, t_s). With xh the whole clip, tau a time and noise fresh:

    xh_tau = (1 - tau) xh + tau noise
    x_real = xh_tau + tau v_teacher(xh_tau, tau)     CFG-Zero of the frozen teacher, which sees the whole clip at once
    x_fake = xh_tau + tau v_fake(xh_tau, tau)        a second adapter, of the distribution of xh
    g      = (x_fake - x_real) / mean|xh - x_real|   for each sample
    loss   = mean((xh - stop(xh - g))^2) / 2         so that its gradient in xh is g / size

x_fake - x_real is tau^2 / (1 - tau) times the difference of the two scores of xh_tau: descent along g brings the
distribution of xh to the teacher's. The fake score learns xh by flow matching, in several updates for one of the
student's.

A causally trained teacher can take the place of that of whole clips (`teacher="chunks"`). Both scores then see every
chunk of the student's after its clean chunks, in one pass as in causal training (objectives/causal.py), of which the
fake score learns with the same loss. Rollouts may be longer than the window, of which the scores see parts, and their
first chunks those of the data where captions begin later: so the student learns to follow a prompt that changes.

The gradient goes through the last step of every chunk. Steps before it, and keys and values of the chunks before, have
none. A rollout is therefore computed twice: first without gradient and in order, then every last step by itself,
against the keys and values that the first pass kept, so that no more than one chunk's activations are in memory.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Bool, Float, PRNGKeyArray, Shaped
from lcv_jax.bounds import Bounds, Count, GuidanceScale, Shift, check_fields
from lcv_jax.diffusion.flow import mix, shift_time
from lcv_jax.diffusion.guidance import cfg_zero
from lcv_jax.diffusion.schedule import DISTILLED_GRID, distilled
from lcv_jax.models.dit import Cache
from lcv_jax.models.stream_window import StreamWindow, write_frames
from lcv_jax.objectives.causal import CausalFlowMatching
from lcv_jax.objectives.drawing import ConditionNoise, TimeShift, draw_uniform
from lcv_jax.objectives.flow_matching import FlowMatching, LogitNormalWeight
from lcv_jax.objectives.networks import Batch, Losses, Networks, Velocity, caption_start, noisy_velocity

SCORED = 0.02, 0.98
"""Times outside are moved to these: near 0 both scores are exact, near 1 xh_tau says nothing about xh."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfForcing:
    """Distribution matching of the student's own clips, rolled out with a stream's cache.

    Reads text_BLD, text_mask_BL, negative_text_1LD and negative_mask_1L; of latents_BTHWC the shape alone, or where
    captions begin later (caption_start_B) the frames before. Batches should keep their captions. No condition frames.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"teacher", "negative_text", "rollout", "fake"})

    teacher: Literal["clips", "chunks"] = "clips"
    """What the scores see: whole clips, or chunks after clean ones, for a teacher that is causally trained (name its
    adapter as `adapter.teacher`) and captions that begin later."""

    num_steps: Annotated[int, Bounds(least=1, most=DISTILLED_GRID)] = 4
    """Steps of a chunk: those to sample with. The 2 steps of a schedule are among its 4."""
    window: StreamWindow = StreamWindow()  # noqa: RUF009
    """What a chunk sees, as streams will have it. Clips are whole chunks, best as long as the window and a chunk."""
    shift: Shift = 12.0
    """Of the schedule, that to sample with, and of tau."""
    guidance_scale: GuidanceScale = 4.0
    """Of the teacher's CFG-Zero. 1: without guidance, for a teacher that has it distilled."""
    fake_updates: Count = 5
    """Updates of the fake score for one of the student's, on the same clips with noise and times of their own."""
    stratified: bool = True
    """Spread the times of a batch evenly instead of drawing each on its own."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.teacher == "chunks":
            _ = self.causal

    @property
    def late_captions(self) -> bool:
        """Whether captions may begin later than their clips."""
        return self.teacher == "chunks"

    def __call__(self, networks: Networks, batch: Batch, key: PRNGKeyArray, *, num_cond_latents: int) -> Losses:
        if num_cond_latents:
            raise ValueError(f"self-forcing has no condition frames, got num_cond_latents={num_cond_latents}")
        cut_key, start_key, fresh_key, time_key, noise_key = jax.random.split(key, 5)
        shape = batch["latents_BTHWC"].shape
        cut = jax.random.randint(cut_key, (), 0, self.num_steps)
        clip_BTHWC = self.roll_out(networks, batch, jax.random.normal(start_key, shape), fresh_key, cut)
        start_B = caption_start(batch)
        if self.teacher == "chunks":
            clip_BTHWC, start_B = self.causal.part(clip_BTHWC, start_B, jax.random.fold_in(key, 5))
        made_BT = jnp.arange(clip_BTHWC.shape[1]) >= start_B[:, None]
        u_B = draw_uniform(time_key, shape[0], stratified=self.stratified)
        t_B = jnp.clip(shift_time(u_B, self.shift), *SCORED)
        own_BTHWC = jax.lax.stop_gradient(clip_BTHWC)
        real_BTHWC, fake_BTHWC = self.predictions(networks, batch, own_BTHWC, t_B, noise_key)
        gap_B = jnp.maximum(of_made(jnp.abs(own_BTHWC - real_BTHWC), made_BT), 1e-5)
        g_BTHWC = jax.lax.stop_gradient((fake_BTHWC - real_BTHWC) / per_sample(gap_B))
        loss_B = of_made(jnp.square(clip_BTHWC - (own_BTHWC - g_BTHWC)), made_BT) / 2
        return Losses(
            loss=jnp.mean(loss_B),
            error_B=of_made(jnp.square(fake_BTHWC - real_BTHWC), made_BT),
            t_B=t_B,
            metrics={"matching": jnp.mean(of_made(jnp.abs(g_BTHWC), made_BT)), "gap": jnp.mean(gap_B)},
            rollout={"latents_BTHWC": own_BTHWC, "caption_start_B": start_B},
        )

    @property
    def schedule(self) -> Float[Array, " steps"]:
        """Times of the steps, as `distilled` sampling has them."""
        return jnp.asarray(distilled(self.num_steps, self.shift), jnp.float32)

    @property
    def causal(self) -> CausalFlowMatching:
        """Causal training of the chunks of a window, all times alike."""
        return CausalFlowMatching(
            chunk=self.window.chunk, window=self.window, diffusion_forcing=False, **self._all_times_alike
        )

    @property
    def fake_objective(self) -> FlowMatching | CausalFlowMatching:
        """What the fake score minimises, on clips of the student: flow matching, all times alike."""
        return self.causal if self.teacher == "chunks" else FlowMatching(**self._all_times_alike)

    @property
    def _all_times_alike(self) -> dict[str, Any]:
        return {
            "shift": TimeShift(base=self.shift, base_tokens=None),
            "weight": LogitNormalWeight(floor=1.0),
            "condition": ConditionNoise(max_level=0.0),
            "stratified": self.stratified,
        }

    def predictions(
        self, networks: Networks, batch: Batch, own_BTHWC: Array, t_B: Float[Array, " B"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "B T H W C"], Float[Array, "B T H W C"]]:
        """The clean clips that the teacher and the fake score predict from the student's, noised to time t."""
        assert networks.teacher is not None
        assert networks.fake is not None
        t, shape = per_sample(t_B), own_BTHWC.shape
        x_BTHWC = mix(own_BTHWC, jax.random.normal(key, shape), t)
        times_BT = jnp.broadcast_to(1000 * t_B[:, None], shape[:2])

        def velocity(network: Velocity, text_BLD: Array, mask_BL: Array) -> Array:
            if self.teacher == "clips":
                return noisy_velocity(network, x_BTHWC, times_BT, text_BLD, mask_BL, 0)
            both_BTHWC = jnp.concatenate([own_BTHWC, x_BTHWC], axis=1)
            times = jnp.concatenate([0 * times_BT, times_BT], axis=1)
            network = functools.partial(network, chunk=self.window.chunk)
            return noisy_velocity(network, both_BTHWC, times, text_BLD, mask_BL, shape[1])

        text = batch["text_BLD"], batch["text_mask_BL"]
        real_BTHWC = velocity(networks.teacher, *text)
        if self.guidance_scale > 1:
            negative_text, negative_mask = batch["negative_text_1LD"], batch["negative_mask_1L"]
            negative = jnp.broadcast_to(negative_text, text[0].shape), jnp.broadcast_to(negative_mask, text[1].shape)
            # As sampling has it: of all that is denoised together.
            together = shape[1] if self.teacher == "clips" else self.window.chunk
            told = real_BTHWC.reshape(-1, together, *shape[2:])
            untold = velocity(networks.teacher, *negative).reshape(told.shape)
            real_BTHWC = cfg_zero(told, untold, self.guidance_scale).reshape(shape)
        return x_BTHWC + t * real_BTHWC, x_BTHWC + t * velocity(networks.fake, *text)

    def roll_out(
        self, networks: Networks, batch: Batch, noise_BTHWC: Float[Array, "B T H W C"], key: PRNGKeyArray, cut: Any
    ) -> Float[Array, "B T H W C"]:
        """The student's clip, with a gradient through the last step of every chunk. Chunks before captions are given.

        Args:
            noise_BTHWC: where the chunks start.
            key: of the fresh noise; chunk j has `fold_in(key, j)`.
            cut: the step, from 0, that is every chunk's last: its clean prediction is taken.

        Raises:
            ValueError: the clip is no number of whole chunks.
        """
        B, T, H, W, C = noise_BTHWC.shape
        c = self.window.chunk
        if T % c:
            raise ValueError(f"self-forcing wants clips of whole chunks, got {T} latent frames and chunks of {c}")

        def in_chunks(x_BTHWC: Array) -> Array:
            return jnp.moveaxis(x_BTHWC.reshape(B, T // c, c, H, W, C), 1, 0)

        data_JBcHWC = in_chunks(batch["latents_BTHWC"].astype(jnp.float32))
        starts_JBcHWC, cache = self._first_pass(networks, batch, in_chunks(noise_BTHWC), data_JBcHWC, key, cut)
        length, t = history_length(T, c), self.schedule[cut]

        @jax.checkpoint
        def last_step(number: Array, x_BcHWC: Array, data_BcHWC: Array) -> Array:
            seen = _Seen(cache, self.window.history(number * c, length))
            made_BcHWC = x_BcHWC + t * _chunk_velocity(networks.student, batch, seen)(x_BcHWC, t)
            return jnp.where(_is_given(batch, number * c), data_BcHWC, made_BcHWC)

        def chunk(_: None, inputs: tuple[Array, Array, Array]) -> tuple[None, Array]:
            return None, last_step(*inputs)

        _, clean_JBcHWC = jax.lax.scan(chunk, None, (jnp.arange(T // c), starts_JBcHWC, data_JBcHWC))
        return jnp.moveaxis(clean_JBcHWC, 0, 1).reshape(noise_BTHWC.shape)

    def _first_pass(
        self,
        networks: Networks,
        batch: Batch,
        noise_JBcHWC: Float[Array, "J B c H W C"],
        data_JBcHWC: Float[Array, "J B c H W C"],
        key: PRNGKeyArray,
        cut: Any,
    ) -> tuple[Float[Array, "J B c H W C"], Cache]:
        """Without gradient: where each chunk's last step starts, and keys and values of all clean chunks."""
        assert networks.still is not None
        assert networks.keep is not None
        still, keep = networks.still, networks.keep
        J, _, c = noise_JBcHWC.shape[:3]
        length, schedule = history_length(J * c, c), self.schedule
        own = jax.eval_shape(keep, noise_JBcHWC[0])
        cache = jax.tree.map(lambda x: jnp.zeros((*x.shape[:2], x.shape[2] // c * length, *x.shape[3:]), x.dtype), own)

        def chunk(cache: Cache, inputs: tuple[Array, Array, Array]) -> tuple[Cache, Array]:
            number, noise_BcHWC, data_BcHWC = inputs
            seen = _Seen(cache, self.window.history(number * c, length))
            velocity = _chunk_velocity(still, batch, seen)
            own_key = jax.random.fold_in(key, number)

            def step(index: Array, before: tuple[Array, Array]) -> tuple[Array, Array]:
                """From where the step before started, and what it predicted; at t_1 = 1 there is nothing of it left."""
                fresh = jax.random.normal(jax.random.fold_in(own_key, index - 1), noise_BcHWC.shape)
                t, noise = schedule[index], jnp.where(index == 0, noise_BcHWC, fresh)
                x_BcHWC = mix(before[1], noise, t)
                return x_BcHWC, x_BcHWC + t * velocity(x_BcHWC, t)

            x_BcHWC, clean_BcHWC = jax.lax.fori_loop(0, cut + 1, step, (noise_BcHWC, noise_BcHWC))
            clean_BcHWC = jnp.where(_is_given(batch, number * c), data_BcHWC, clean_BcHWC)
            return write_frames(cache, keep(clean_BcHWC, *seen), number * c + jnp.arange(c)), x_BcHWC

        cache, starts_JBcHWC = jax.lax.scan(chunk, cache, (jnp.arange(J), noise_JBcHWC, data_JBcHWC))
        return jax.lax.stop_gradient((starts_JBcHWC, cache))


def _is_given(batch: Batch, frame: Any) -> Bool[Array, "B 1 1 1 1"]:
    """Of each sample, whether the chunk that begins with this latent frame lies before its caption does."""
    return per_sample(frame < caption_start(batch))


class _Seen(NamedTuple):
    """What a chunk sees of the chunks before it."""

    cache: Cache
    frames: Any


def of_made(x_BTHWC: Float[Array, "B T H W C"], made_BT: Bool[Array, "B T"]) -> Float[Array, " B"]:
    """The mean of each sample over the frames that the student made."""
    made_BT111 = made_BT[:, :, None, None, None]
    count_B = jnp.maximum(jnp.sum(made_BT, axis=1), 1) * math.prod(x_BTHWC.shape[2:])
    return jnp.sum(x_BTHWC * made_BT111, axis=(1, 2, 3, 4)) / count_B


def per_sample(x_B: Shaped[Array, " B"]) -> Shaped[Array, "B 1 1 1 1"]:
    """One number a sample, to be multiplied with clips."""
    return x_B[:, None, None, None, None]


def history_length(num_frames: int, chunk: int) -> int:
    """Frames that later chunks of a clip see; of a single chunk there is room for one all the same."""
    return max(num_frames - chunk, chunk)


def _chunk_velocity(network: Velocity, batch: Batch, seen: _Seen) -> Callable[[Array, Array], Array]:
    def velocity(x_BcHWC: Array, t: Array) -> Array:
        timesteps = jnp.broadcast_to(1000 * t, x_BcHWC.shape[:2])
        return network(x_BcHWC, timesteps, batch["text_BLD"], batch["text_mask_BL"], 0, *seen).astype(jnp.float32)

    return velocity
