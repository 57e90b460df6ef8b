"""What an objective is given and what it returns."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import jax.numpy as jnp

from lcv_jax.array_types import Array, Float, Int, PRNGKeyArray, Shaped

Velocity = Callable[..., Array]
"""(x_BTHWC, timesteps_BT in 0..1000, text_BLD, text_mask_BL, num_cond_latents) -> velocity_BTHWC, towards the data.
A cache with its frames, or `chunk`, may follow, see models/dit.py."""

Batch = Mapping[str, Array]
"""latents_BTHWC, text_BLD, text_mask_BL, and what else the objective names."""


def caption_start(batch: Batch) -> Int[Array, " B"]:
    """The first latent frame that each caption describes: caption_start_B, or 0 where all begin with their clips."""
    if "caption_start_B" in batch:
        return batch["caption_start_B"]
    return jnp.zeros(len(batch["text_BLD"]), jnp.int32)


class Networks(NamedTuple):
    """The transformer in its roles."""

    student: Velocity
    """What learns."""
    teacher: Velocity | None = None
    """Frozen: the weights without the adapter that learns, or with that of the stage before."""
    average: Velocity | None = None
    """The student with its parameters' moving average, without gradient."""
    still: Velocity | None = None
    """The student without gradient."""
    keep: Callable[..., dict[str, Array]] | None = None
    """Likewise, its `encode_condition` (models/dit.py): (clean latents, cache, cached frames) -> keys and values."""
    fake: Velocity | None = None
    """A second adapter that learns, without gradient: the score of the student's own clips."""


def noisy_velocity(
    network: Velocity,
    x_BTHWC: Float[Array, "B all H W C"],
    timesteps_BT: Float[Array, "B all"],
    text_BLD: Float[Array, "B L D"],
    text_mask_BL: Shaped[Array, "B L"],
    num_cond_latents: int,
) -> Float[Array, "B T H W C"]:
    """The velocity of the noisy frames alone, float32: what objectives compare. Condition frames have none."""
    velocity_BTHWC = network(x_BTHWC, timesteps_BT, text_BLD, text_mask_BL, num_cond_latents)
    return velocity_BTHWC[:, num_cond_latents:].astype(jnp.float32)


class AutoencoderNetworks(NamedTuple):
    """The two halves of the video autoencoder, both learning, and what they were."""

    encode: Callable[[Array], tuple[Array, Array]]
    """A video in [-1, 1] -> mean and log-variance of its latents, not normalised."""
    decode: Callable[[Array], Array]
    """Latents, not normalised -> the video in [-1, 1], not clipped: what is clipped has no gradient."""
    start: Callable[[Array], tuple[Array, Array]] | None = None
    """`encode` of the weights that training starts from, frozen."""
    std_C: Array | float = 1.0
    """What latents are normalised by when training starts."""


class Losses(NamedTuple):
    """What training minimises and what it shows."""

    loss: Float[Array, ""]
    error_B: Float[Array, " B"]
    """Mean squared error of each sample, unweighted."""
    t_B: Float[Array, " B"] | None
    """The network's time of each sample, in [0, 1]; None: it knows no times."""
    metrics: dict[str, Array] = {}
    """Further scalars to show."""
    samples: dict[str, Array] = {}
    """Arrays over the batch that validation summarises over all of its batches."""
    rollout: dict[str, Array] = {}
    """Of a batch, what the fake score learns instead of the data: clips that the student made."""
    weight: Any = 1.0
    """Of the loss beside those of other parts of a batch, and of other batches of validation."""


class Objective(Protocol):
    """A frozen dataclass that can be a static argument of jit."""

    needs: ClassVar[frozenset[str]]
    """Of "teacher", "average", "negative_text", "rollout" (`still` and `keep`) and "fake": what the trainer provides
    for it beside student and batch."""

    def __call__(self, networks: Any, batch: Batch, key: PRNGKeyArray, *, num_cond_latents: int) -> Losses:
        """The losses of a batch whose first `num_cond_latents` latent frames are given."""
        ...
