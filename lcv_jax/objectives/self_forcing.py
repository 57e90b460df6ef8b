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

The gradient goes through the last step of every chunk. Steps before it, and keys and values of the chunks before, have
none. A rollout is therefore computed twice: first without gradient and in order, then every last step by itself,
against the keys and values that the first pass kept, so that no more than one chunk's activations are in memory.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Float, PRNGKeyArray
from lcv_jax.bounds import Bounds, Count, GuidanceScale, Shift, check_fields
from lcv_jax.diffusion.flow import mix, shift_time
from lcv_jax.diffusion.guidance import cfg_zero
from lcv_jax.diffusion.schedule import DISTILLED_GRID, distilled
from lcv_jax.models.dit import Cache
from lcv_jax.models.stream_window import StreamWindow, write_frames
from lcv_jax.objectives.distances import mean_per_sample, squared_error
from lcv_jax.objectives.drawing import ConditionNoise, TimeShift, draw_uniform
from lcv_jax.objectives.flow_matching import FlowMatching, LogitNormalWeight
from lcv_jax.objectives.networks import Batch, Losses, Networks, Velocity, noisy_velocity

SCORED = 0.02, 0.98
"""Times outside are moved to these: near 0 both scores are exact, near 1 xh_tau says nothing about xh."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfForcing:
    """Distribution matching of the student's own clips, rolled out with a stream's cache.

    Reads text_BLD, text_mask_BL, negative_text_1LD and negative_mask_1L; of latents_BTHWC the shape alone. Batches
    should keep their captions. No condition frames.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"teacher", "negative_text", "rollout", "fake"})

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

    def __call__(self, networks: Networks, batch: Batch, key: PRNGKeyArray, *, num_cond_latents: int) -> Losses:
        if num_cond_latents:
            raise ValueError(f"self-forcing has no condition frames, got num_cond_latents={num_cond_latents}")
        cut_key, start_key, fresh_key, time_key, noise_key = jax.random.split(key, 5)
        shape = batch["latents_BTHWC"].shape
        cut = jax.random.randint(cut_key, (), 0, self.num_steps)
        clip_BTHWC = self.roll_out(networks, batch, jax.random.normal(start_key, shape), fresh_key, cut)
        u_B = draw_uniform(time_key, shape[0], stratified=self.stratified)
        t_B = jnp.clip(shift_time(u_B, self.shift), *SCORED)
        own_BTHWC = jax.lax.stop_gradient(clip_BTHWC)
        real_BTHWC, fake_BTHWC = self.predictions(networks, batch, own_BTHWC, t_B, noise_key)
        gap_B = jnp.maximum(mean_per_sample(jnp.abs(own_BTHWC - real_BTHWC)), 1e-5)
        g_BTHWC = jax.lax.stop_gradient((fake_BTHWC - real_BTHWC) / per_sample(gap_B))
        loss_B = squared_error(clip_BTHWC, own_BTHWC - g_BTHWC) / 2
        return Losses(
            loss=jnp.mean(loss_B),
            error_B=squared_error(fake_BTHWC, real_BTHWC),
            t_B=t_B,
            metrics={"matching": jnp.mean(jnp.abs(g_BTHWC)), "gap": jnp.mean(gap_B)},
            rollout_BTHWC=own_BTHWC,
        )

    @property
    def schedule(self) -> Float[Array, " steps"]:
        """Times of the steps, as `distilled` sampling has them."""
        return jnp.asarray(distilled(self.num_steps, self.shift), jnp.float32)

    @property
    def fake_objective(self) -> FlowMatching:
        """What the fake score minimises, on clips of the student: flow matching, all times alike."""
        return FlowMatching(
            shift=TimeShift(base=self.shift, base_tokens=None),
            weight=LogitNormalWeight(floor=1.0),
            condition=ConditionNoise(max_level=0.0),
            stratified=self.stratified,
        )

    def predictions(
        self, networks: Networks, batch: Batch, own_BTHWC: Array, t_B: Float[Array, " B"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "B T H W C"], Float[Array, "B T H W C"]]:
        """The clean clips that the teacher and the fake score predict from the student's, noised to time t."""
        assert networks.teacher is not None
        assert networks.fake is not None
        t = per_sample(t_B)
        x_BTHWC = mix(own_BTHWC, jax.random.normal(key, own_BTHWC.shape), t)
        shown = x_BTHWC, jnp.broadcast_to(1000 * t_B[:, None], own_BTHWC.shape[:2])
        text = batch["text_BLD"], batch["text_mask_BL"]
        real_BTHWC = noisy_velocity(networks.teacher, *shown, *text, 0)
        if self.guidance_scale > 1:
            negative_text, negative_mask = batch["negative_text_1LD"], batch["negative_mask_1L"]
            negative = jnp.broadcast_to(negative_text, text[0].shape), jnp.broadcast_to(negative_mask, text[1].shape)
            real_BTHWC = cfg_zero(
                real_BTHWC, noisy_velocity(networks.teacher, *shown, *negative, 0), self.guidance_scale
            )
        fake_BTHWC = noisy_velocity(networks.fake, *shown, *text, 0)
        return x_BTHWC + t * real_BTHWC, x_BTHWC + t * fake_BTHWC

    def roll_out(
        self, networks: Networks, batch: Batch, noise_BTHWC: Float[Array, "B T H W C"], key: PRNGKeyArray, cut: Any
    ) -> Float[Array, "B T H W C"]:
        """The student's clip, with a gradient through the last step of every chunk.

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
        noise_JBcHWC = jnp.moveaxis(noise_BTHWC.reshape(B, T // c, c, H, W, C), 1, 0)
        starts_JBcHWC, cache = self._first_pass(networks, batch, noise_JBcHWC, key, cut)
        length, t = history_length(T, c), self.schedule[cut]

        @jax.checkpoint
        def last_step(number: Array, x_BcHWC: Array) -> Array:
            seen = _Seen(cache, self.window.history(number * c, length))
            return x_BcHWC + t * _chunk_velocity(networks.student, batch, seen)(x_BcHWC, t)

        def chunk(_: None, given: tuple[Array, Array]) -> tuple[None, Array]:
            return None, last_step(*given)

        _, clean_JBcHWC = jax.lax.scan(chunk, None, (jnp.arange(T // c), starts_JBcHWC))
        return jnp.moveaxis(clean_JBcHWC, 0, 1).reshape(noise_BTHWC.shape)

    def _first_pass(
        self, networks: Networks, batch: Batch, noise_JBcHWC: Float[Array, "J B c H W C"], key: PRNGKeyArray, cut: Any
    ) -> tuple[Float[Array, "J B c H W C"], Cache]:
        """Without gradient: where each chunk's last step starts, and keys and values of all clean chunks."""
        assert networks.still is not None
        assert networks.keep is not None
        still, keep = networks.still, networks.keep
        J, _, c = noise_JBcHWC.shape[:3]
        length, schedule = history_length(J * c, c), self.schedule
        own = jax.eval_shape(keep, noise_JBcHWC[0])
        cache = jax.tree.map(lambda x: jnp.zeros((*x.shape[:2], x.shape[2] // c * length, *x.shape[3:]), x.dtype), own)

        def chunk(cache: Cache, given: tuple[Array, Array]) -> tuple[Cache, Array]:
            number, noise_BcHWC = given
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
            return write_frames(cache, keep(clean_BcHWC, *seen), number * c + jnp.arange(c)), x_BcHWC

        cache, starts_JBcHWC = jax.lax.scan(chunk, cache, (jnp.arange(J), noise_JBcHWC))
        return jax.lax.stop_gradient((starts_JBcHWC, cache))


class _Seen(NamedTuple):
    """What a chunk sees of the chunks before it."""

    cache: Cache
    frames: Any


def per_sample(x_B: Float[Array, " B"]) -> Float[Array, "B 1 1 1 1"]:
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
