"""The rollout of GRPO: groups of videos that differ by the noise of one step, as one compiled program.

Up to the critical step a group is one sample, and computed once; from there on its samples go together. Which step is
critical is data: another one is no other program. Of the way only the states around that step are kept.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Bool, Float, Int, Params, PRNGKeyArray
from lcv_jax.diffusion import sde
from lcv_jax.diffusion.flow import euler_step
from lcv_jax.diffusion.sampler import Velocity
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.objectives.grpo import log_prob
from lcv_jax.sampling.denoise import guided_velocity
from lcv_jax.training.rollout_config import SDEConfig
from lcv_jax.training.state import Frozen, variables_of
from lcv_jax.training.step import Learner


class Rollout(NamedTuple):
    """Samples of P groups, group after group: B = P G."""

    latents_BTHWC: Float[Array, "B T H W C"]
    """What came of them."""
    x_BTHWC: Float[Array, "B T H W C"]
    """Before the critical step."""
    next_BTHWC: Float[Array, "B T H W C"]
    """After it."""
    log_prob_B: Float[Array, " B"]
    """Of the critical step, as objectives/grpo.py has it."""
    t: Float[Array, ""]
    """At which it begins."""
    dt: Float[Array, ""]
    """How long it is."""
    s: Float[Array, ""]
    """The deviation of its noise."""


@functools.partial(jax.jit, static_argnames=("model", "group_size", "noise"))
def rollout(
    model: LongCatVideo,
    variables: Params,
    noise_PTHWC: Float[Array, "P T H W C"],
    text_PLD: Float[Array, "P L D"],
    mask_PL: Bool[Array, "P L"],
    negative_1LD: Float[Array, "1 L D"] | None,
    negative_mask_1L: Bool[Array, "1 L"] | None,
    schedule: Float[Array, " steps"],
    guidance_scale: Float[Array, ""],
    critical: Int[Array, ""],
    key: PRNGKeyArray,
    *,
    group_size: int,
    noise: SDEConfig,
) -> Rollout:
    """Samples groups.

    Args:
        model: the transformer; variables: its parameters with the policy's adapter.
        noise_PTHWC: what each group starts from.
        text_PLD: embeddings of the prompts, one a group; mask_PL: where they have tokens.
        negative_1LD: embedding of the negative prompt, and its mask; None: no guidance.
        schedule: noise levels, falling.
        guidance_scale: of CFG-Zero.
        critical: which step is learnt from, from 0; not the last one.
        key: of the fresh noise.
        group_size: samples of a group.
        noise: where it comes in.
    """
    P, G = noise_PTHWC.shape[0], group_size
    after = jnp.concatenate([schedule[1:], jnp.zeros(1, schedule.dtype)])

    def of_group(x: Array) -> Array:
        return jnp.repeat(x, G, axis=0)

    def velocity_of(text_BLD: Array, mask_BL: Array) -> Velocity:
        if negative_1LD is not None and negative_mask_1L is not None:
            B = text_BLD.shape[0]
            text_BLD = jnp.concatenate([jnp.repeat(negative_1LD, B, axis=0), text_BLD])
            mask_BL = jnp.concatenate([jnp.repeat(negative_mask_1L, B, axis=0), mask_BL])
        return guided_velocity(model, variables, text_BLD, mask_BL, guidance_scale)

    each, together = velocity_of(text_PLD, mask_PL), velocity_of(of_group(text_PLD), of_group(mask_PL))
    t, dt = schedule[critical], schedule[critical] - after[critical]
    s = sde.deviation(t, dt, amplitude=noise.amplitude, threshold=noise.threshold)

    def noisy_step(x_BTHWC: Array, number: Array, z_BTHWC: Array) -> tuple[Array, Array]:
        """The state after a step, and where it would go on average."""
        t, dt = schedule[number], schedule[number] - after[number]
        s = sde.deviation(t, dt, amplitude=noise.amplitude, threshold=noise.threshold)
        s = jnp.where(after[number] > 0, s, 0.0)  # the last step has nothing after it to take noise out again
        mu_BTHWC = sde.mean(x_BTHWC, together(x_BTHWC, t), t, dt, s)
        return mu_BTHWC + s * z_BTHWC, mu_BTHWC

    def ode_steps(velocity: Velocity, x: Array, first: Array | int, last: Array | int) -> Array:
        def step(number: Array, x: Array) -> Array:
            return euler_step(x, velocity(x, schedule[number]), schedule[number], after[number])

        return jax.lax.fori_loop(first, last, step, x)

    def drawn(number: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(key, number), (P * G, *noise_PTHWC.shape[1:]))

    if noise.noisy_steps == "critical":
        x_PTHWC = ode_steps(each, noise_PTHWC, 0, critical)
        mu_PTHWC = sde.mean(x_PTHWC, each(x_PTHWC, t), t, dt, s)
        x_BTHWC, mu_BTHWC = of_group(x_PTHWC), of_group(mu_PTHWC)
        next_BTHWC = mu_BTHWC + s * drawn(critical)
        latents_BTHWC = ode_steps(together, next_BTHWC, critical + 1, schedule.shape[0])
    else:

        def step(number: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
            now, *kept = carry
            following, mu = noisy_step(now, number, drawn(number))
            found = (now, following, mu)
            return (following, *(jnp.where(number == critical, a, b) for a, b in zip(found, kept, strict=True)))

        start = of_group(noise_PTHWC)
        latents_BTHWC, x_BTHWC, next_BTHWC, mu_BTHWC = jax.lax.fori_loop(
            0, schedule.shape[0], step, (start, start, start, start)
        )
    return Rollout(latents_BTHWC, x_BTHWC, next_BTHWC, log_prob(next_BTHWC, mu_BTHWC, s), t, dt, s)


@functools.partial(jax.jit, static_argnames=("learner", "group_size", "noise"))
def policy_rollout(
    learner: Learner, params: Params, frozen: Frozen, *arguments: Any, group_size: int, noise: SDEConfig
) -> Rollout:
    """`rollout` by the policy that is trained, with the arguments after `variables`."""
    assert isinstance(learner.model, LongCatVideo)
    model = dataclasses.replace(learner.model, remat="none")
    variables = variables_of(params, frozen, learner.adapted)
    return rollout(model, variables, *arguments, group_size=group_size, noise=noise)
