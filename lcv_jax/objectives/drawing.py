"""Drawing times and noisy clips, for all objectives of the transformer.

Two times are told apart: u, uniform in [0, 1], and t = shift_time(u), the point of the flow. The network's timestep is
1000 t. Condition frames, at the front of a clip, have noise levels of their own.
"""

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Float, PRNGKeyArray
from lcv_jax.bounds import Count, Share, Shift, check_fields
from lcv_jax.diffusion.flow import mix


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeShift:
    """The shift of times towards the noise, growing with the square root of the number of noisy tokens.

    More tokens show more of a clip through the same noise, so it takes more noise to hide as much (Esser et al. 2024;
    report section 4.1). The defaults go through the released sampler's 12 at 480p x 93 frames, and so reach 1, no
    shift, at the 256 tokens of an image of 256 x 256.
    """

    base: Shift = 12.0
    """The shift at `base_tokens`."""
    base_tokens: Count | None = 37_440
    """Noisy tokens at which the shift is `base`. None: it is `base` everywhere."""
    latents_per_token: Count = 4
    """Latent positions of a token: the area of the transformer's patches."""
    lowest: Shift = 1.0
    """Never less than this where the shift varies: below 1, small clips would see more times near the data than near
    the noise."""

    def __post_init__(self) -> None:
        check_fields(self)

    def at(self, noisy_shape: tuple[int, ...]) -> float:
        """The shift for the noisy frames of a clip, B T H W C."""
        if self.base_tokens is None:
            return self.base
        tokens = math.prod(noisy_shape[1:4]) / self.latents_per_token
        return max(self.lowest, self.base * math.sqrt(tokens / self.base_tokens))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConditionNoise:
    """Noise on the condition frames of continuation (report section 4.1; diffusion forcing, Chen et al. 2024).

    Every frame gets a level of its own, uniform in [0, max_level], so that the model learns to continue frames which
    are not quite right: its own, in a long video, whose errors add up to a drift of colour otherwise. A single
    condition frame is the image of image-to-video, which must be kept: it stays clean.
    """

    max_level: Share = 0.1
    """The highest noise level; 0 leaves condition frames clean."""
    timestep: Literal["zero", "level"] = "zero"
    """What the network is told of a condition frame. "zero": clean, whatever its level, as sampling will tell it;
    so it learns to distrust them a little. "level": the truth, as in diffusion forcing."""

    def __post_init__(self) -> None:
        check_fields(self)

    def draw(self, key: PRNGKeyArray, batch: int, num_cond_latents: int) -> Float[Array, "B T"]:
        """Noise levels of condition frames."""
        if num_cond_latents < 2:
            return jnp.zeros((batch, num_cond_latents))
        return jax.random.uniform(key, (batch, num_cond_latents), maxval=self.max_level)


class NoisyClip(NamedTuple):
    """What the network is shown."""

    x_BTHWC: Array
    """Condition frames, then noisy frames."""
    timesteps_BT: Array
    noise_BTHWC: Array
    """What was mixed in."""


def draw_uniform(key: PRNGKeyArray, batch: int, *, stratified: bool) -> Float[Array, " B"]:
    """One u in [0, 1) a sample.

    Stratified, they are evenly spaced over the batch from a random start. Each is uniform all the same, so that the
    expected loss does not change, but a batch's loss is less noisy.
    """
    if not stratified:
        return jax.random.uniform(key, (batch,))
    return (jax.random.uniform(key) + jnp.arange(batch) / batch) % 1.0


def draw_noisy_clip(
    key: PRNGKeyArray,
    clean_BTHWC: Float[Array, "B T H W C"],
    t_B: Float[Array, " B"],
    num_cond_latents: int,
    condition: ConditionNoise,
) -> NoisyClip:
    """A clip with its noisy frames at time t and its condition frames at levels of their own."""
    noise_key, level_key = jax.random.split(key)
    B, T = clean_BTHWC.shape[:2]
    noise_BTHWC = jax.random.normal(noise_key, clean_BTHWC.shape)
    levels_BT = condition.draw(level_key, B, num_cond_latents)
    told_BT = levels_BT if condition.timestep == "level" else jnp.zeros_like(levels_BT)
    x_BTHWC = mix_frames(clean_BTHWC, noise_BTHWC, frame_times(levels_BT, t_B, T))
    return NoisyClip(x_BTHWC, 1000 * frame_times(told_BT, t_B, T), noise_BTHWC)


def frame_times(condition_BT: Float[Array, "B cond"], t_B: Float[Array, " B"], num_frames: int) -> Float[Array, "B T"]:
    """One time a latent frame: those of the condition frames, then t for all others."""
    B, num_condition = condition_BT.shape
    return jnp.concatenate([condition_BT, jnp.broadcast_to(t_B[:, None], (B, num_frames - num_condition))], axis=1)


def mix_frames(
    start_BTHWC: Float[Array, "B T H W C"], end_BTHWC: Float[Array, "B T H W C"], share_BT: Float[Array, "B T"]
) -> Float[Array, "B T H W C"]:
    """`mix` with one time a frame."""
    return mix(start_BTHWC, end_BTHWC, share_BT[:, :, None, None, None])
