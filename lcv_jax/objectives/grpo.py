"""GRPO for flow matching: rewards are followed through one noisy step of sampling (report section 3.3, algorithm 1).

All samples of a group come from one noise, and differ by the noise z of one step alone, from x at time t to `next`. The
policy is the density of that step, normal with mean mu(v) and deviation s (diffusion/sde.py), v being the guided
velocity as in sampling. Of elements, log-probabilities and divergences are means: a sum over a video's would make every
ratio 0 or infinite.

    loss = - w min(r A, clip(r, 1 - c, 1 + c) A) + kl_weight w^2 KL,    r = p(next) / p_sampling(next)
    KL = mean((mu - mu_reference)^2) / (2 s^2)

w makes gradients the same at all times; see sde.weight.
"""

import dataclasses
from typing import Annotated, ClassVar

import jax.numpy as jnp

from lcv_jax.array_types import Array, Float, PRNGKeyArray
from lcv_jax.bounds import Bounds, GuidanceScale, NonNegative, check_fields
from lcv_jax.diffusion import sde
from lcv_jax.diffusion.guidance import cfg_zero
from lcv_jax.objectives.distances import mean_per_sample
from lcv_jax.objectives.networks import Batch, Losses, Networks, Velocity


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRPO:
    """The clipped policy gradient and the divergence from the reference, which has no adapter.

    Reads x_BTHWC and next_BTHWC, the states before and after the step, log_prob_B of the sampling policy,
    advantage_B, kept_B (0 where a group lacks a score), t_B, dt_B, s_B, and text_BLD, text_mask_BL,
    negative_text_1LD, negative_mask_1L.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"teacher", "negative_text"})

    guidance_scale: GuidanceScale = 4.0
    """Of CFG-Zero, as in the rollout."""
    clip: Annotated[float, Bounds(above=0, below=1)] = 1e-3
    """How far the ratio of a sample may move before its gradient is cut."""
    kl_weight: NonNegative = 3e-4
    """Of the divergence."""
    reweighted: bool = True
    """Whether w is used; without, it is 1."""

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, networks: Networks, batch: Batch, key: PRNGKeyArray, *, num_cond_latents: int = 0) -> Losses:
        assert networks.teacher is not None
        t, dt, s = (batch[name][:, None, None, None, None] for name in ("t_B", "dt_B", "s_B"))
        x_BTHWC, next_BTHWC = batch["x_BTHWC"], batch["next_BTHWC"]

        def mean(network: Velocity) -> Array:
            return sde.mean(x_BTHWC, self.velocity(network, batch), t, dt, s)

        mu_BTHWC, reference_BTHWC = mean(networks.student), mean(networks.teacher)
        ratio_B = jnp.exp(log_prob(next_BTHWC, mu_BTHWC, s) - batch["log_prob_B"])
        clipped_B = jnp.clip(ratio_B, 1 - self.clip, 1 + self.clip)
        gain_B = jnp.minimum(ratio_B * batch["advantage_B"], clipped_B * batch["advantage_B"])
        kl_B = mean_per_sample(jnp.square(mu_BTHWC - reference_BTHWC)) / (2 * batch["s_B"] ** 2)
        kept_B = batch["kept_B"] / jnp.maximum(jnp.mean(batch["kept_B"]), 1e-6)
        weight_B = sde.weight(batch["t_B"], batch["dt_B"], batch["s_B"]) if self.reweighted else jnp.ones_like(kl_B)
        policy, kl = jnp.mean(-weight_B * gain_B * kept_B), jnp.mean(weight_B**2 * kl_B * kept_B)
        metrics = {
            "policy": policy,
            "kl": jnp.mean(kl_B),
            "clipped": jnp.mean(ratio_B != clipped_B),
            "ratio_spread": jnp.std(ratio_B),
        }
        return Losses(policy + self.kl_weight * kl, kl_B, batch["t_B"], metrics)

    def velocity(self, network: Velocity, batch: Batch) -> Float[Array, "B T H W C"]:
        """The guided velocity at the states before the step."""
        x_BTHWC, text_BLD, mask_BL = batch["x_BTHWC"], batch["text_BLD"], batch["text_mask_BL"]
        timesteps_BT = jnp.broadcast_to(1000 * batch["t_B"][:, None], x_BTHWC.shape[:2])
        if self.guidance_scale == 1:
            return network(x_BTHWC, timesteps_BT, text_BLD, mask_BL, 0).astype(x_BTHWC.dtype)
        negative_BLD = jnp.broadcast_to(batch["negative_text_1LD"], text_BLD.shape)
        negative_BL = jnp.broadcast_to(batch["negative_mask_1L"], mask_BL.shape)
        v_GTHWC = network(
            jnp.concatenate([x_BTHWC, x_BTHWC]),
            jnp.concatenate([timesteps_BT, timesteps_BT]),
            jnp.concatenate([negative_BLD, text_BLD]),
            jnp.concatenate([negative_BL, mask_BL]),
            0,
        ).astype(x_BTHWC.dtype)
        without, with_prompt = jnp.split(v_GTHWC, 2)
        return cfg_zero(with_prompt, without, self.guidance_scale)


def log_prob(next_BTHWC: Array, mu_BTHWC: Array, s: Array) -> Float[Array, " B"]:
    """Of each sample's step, a mean over elements, up to a constant."""
    return mean_per_sample(-jnp.square((next_BTHWC - mu_BTHWC) / s)) / 2


def advantages(
    reward_PG: Float[Array, "P G"], largest: Float[Array, ""] | float | None = None, eps: float = 1e-6
) -> Float[Array, "P G"]:
    """How much better than its group each sample is, in standard deviations; all the same is 0.

    Args:
        reward_PG: of P groups of G.
        largest: standard deviation to divide by, the largest of all groups (report, equation 9); None: each group's.
        eps: added to it.
    """
    spread = jnp.std(reward_PG, axis=1, keepdims=True) if largest is None else largest
    centred = reward_PG - jnp.mean(reward_PG, axis=1, keepdims=True)
    return centred / (spread + eps)
