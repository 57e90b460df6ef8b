"""Training of the video autoencoder (Wan, arXiv 2503.20314), without the perceptual and adversarial terms it has there.

Those two need networks of their own, trained on images: there are none here. In their place stand differences between
neighbours in space and time, over several scales: a blurred edge or a flickering frame costs more than its pixels do.
"""

import dataclasses
import itertools
from typing import Annotated

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Float, PRNGKeyArray
from lcv_jax.bounds import Bounds, NonNegative, Positive, check_fields
from lcv_jax.models.vae import sample_posterior
from lcv_jax.objectives.distances import charbonnier, mean_per_sample, squared_error
from lcv_jax.objectives.drawing import draw_uniform
from lcv_jax.objectives.networks import AutoencoderNetworks, Batch, Losses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """Absolute error of pixels and of their differences, and a small divergence of the latents from a unit normal.

    With a `keep_weight` also how far the latents of clips that are known have moved since training began: so an
    autoencoder learns new footage, and a transformer that was trained on its latents goes on working.

    Reads video_BTHWC, uint8, and with a `keep_weight` keep_B, 1 where a clip is known, else 0. The decoder's output
    should not be clipped.
    """

    kl_weight: NonNegative = 1e-4
    """Of the divergence, a mean over latents where the others are means over pixels. It keeps latents from growing
    until their noise is nothing."""
    difference_weight: NonNegative = 1.0
    """Of differences between neighbouring pixels, rows and frames, beside the pixels themselves."""
    num_scales: Annotated[int, Bounds(least=1, most=16)] = 3
    """Sizes at which frames are compared: whole, half, a quarter, ..."""
    charbonnier_width: Positive = 1e-3
    """Errors below this, of pixels in [-1, 1], count squared; those above count linearly."""
    keep_weight: NonNegative = 0.0
    """Of the squared distance of latents from those of the start, of the clips that `data.keep_column` marks."""
    branches: bool = True
    """Train residual blocks and attention too. Without them a step takes a seventh of the time: for a start whose
    branches add nothing, such as lcv_jax.toy.start's."""
    latent_noise: NonNegative = 0.0
    """Most deviation of noise on the latents that are decoded, in units of `latents_std`; each clip has another, from 0
    on. What a transformer makes is never quite right, and a decoder that saw exact latents alone shows it: flicker."""
    encoder: bool = True
    """Train the encoder too. Without it all latents stay as they are, and what was trained on them goes on working."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def keeps_latents(self) -> bool:
        """They are normalised as before."""
        return bool(self.keep_weight) or not self.encoder

    @property
    def needs(self) -> frozenset[str]:
        """The encoder as it was, if latents are to stay."""
        return frozenset({"teacher"} if self.keep_weight else ())

    def __call__(
        self, networks: AutoencoderNetworks, batch: Batch, key: PRNGKeyArray, *, num_cond_latents: int = 0
    ) -> Losses:
        video_BTHWC = batch["video_BTHWC"].astype(jnp.float32) / 127.5 - 1
        mean, logvar = (moments.astype(jnp.float32) for moments in networks.encode(video_BTHWC))
        if not self.encoder:
            mean, logvar = jax.lax.stop_gradient((mean, logvar))
        latents_BTHWC = sample_posterior(mean, logvar, key)
        if self.latent_noise:
            latents_BTHWC += self.noise_like(latents_BTHWC, jax.random.fold_in(key, 1)) * networks.std_C
        decoded_BTHWC = networks.decode(latents_BTHWC).astype(jnp.float32)
        kl = jnp.mean(kl_divergence(mean, logvar))
        pixels_B, differences_B = self.reconstruction(decoded_BTHWC, video_BTHWC)
        pixels, differences = jnp.mean(pixels_B), jnp.mean(differences_B)
        error_B = squared_error(decoded_BTHWC, video_BTHWC)
        psnr = jnp.mean(10 * jnp.log10(4 / jnp.maximum(error_B, 1e-10)))
        loss = pixels + self.difference_weight * differences + self.kl_weight * kl
        metrics = {"pixels": pixels, "differences": differences, "kl": kl, "psnr": psnr}
        if self.keep_weight:
            assert networks.start is not None, "the trainer binds what the objective needs"
            began = networks.start(video_BTHWC)[0].astype(jnp.float32)
            # A mean over all clips: what a known one counts depends on no other.
            metrics["moved"] = moved = jnp.mean(batch["keep_B"] * squared_error(mean, began))
            loss += self.keep_weight * moved
        return Losses(loss=loss, error_B=error_B, t_B=None, metrics=metrics)

    def noise_like(self, latents_BTHWC: Float[Array, "B T H W C"], key: PRNGKeyArray) -> Float[Array, "B T H W C"]:
        """Noise of another deviation for each clip."""
        level_key, noise_key = jax.random.split(key)
        level_B = self.latent_noise * draw_uniform(level_key, latents_BTHWC.shape[0], stratified=True)
        return level_B[:, None, None, None, None] * jax.random.normal(noise_key, latents_BTHWC.shape)

    def reconstruction(
        self, decoded_BTHWC: Float[Array, "B T H W C"], video_BTHWC: Float[Array, "B T H W C"]
    ) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
        """Errors of pixels and of differences between neighbours, each a mean over the scales."""
        error_BTHWC = decoded_BTHWC - video_BTHWC  # pooling and differences are linear: of the error is enough
        pixels, differences = [], []
        for scale in range(self.num_scales):
            if scale:
                error_BTHWC = halve(error_BTHWC)
            pixels.append(mean_per_sample(charbonnier(error_BTHWC, self.charbonnier_width)))
            differences += [
                mean_per_sample(charbonnier(jnp.diff(error_BTHWC, axis=axis), self.charbonnier_width))
                for axis in (1, 2, 3)
                if error_BTHWC.shape[axis] > 1
            ]
            if min(error_BTHWC.shape[2:4]) < 2:
                break
        nothing = jnp.zeros_like(pixels[0])
        return sum(pixels, nothing) / len(pixels), sum(differences, nothing) / max(len(differences), 1)


def halve(x_BTHWC: Float[Array, "B T H W C"]) -> Float[Array, "B T h w C"]:
    """Means of 2 x 2 pixels; an odd row or column at the end is left out."""
    H, W = (size // 2 * 2 for size in x_BTHWC.shape[2:4])
    corners = [x_BTHWC[:, :, i:H:2, j:W:2] for i, j in itertools.product((0, 1), repeat=2)]
    return sum(corners[1:], corners[0]) / 4


def kl_divergence(mean: Float[Array, "*shape"], logvar: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """From a normal distribution to the unit one, of each latent."""
    return 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1 - logvar)
