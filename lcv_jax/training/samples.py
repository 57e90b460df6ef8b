"""What the model can do by now: videos of the same prompts and noise, or an autoencoder's reconstructions."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from lcv_jax.array_types import Array, Params, UInt8
from lcv_jax.data.frames import evenly, to_uint8
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.models.vae import WanVAE
from lcv_jax.pipeline import Pipeline
from lcv_jax.sampling.denoise import decode_latents, denoise
from lcv_jax.sampling.options import SamplingOptions
from lcv_jax.training.observe_config import SamplesConfig

SHOWN_FRAMES = 6
LABEL_SIZE = 11
"""Pixels."""


class Sampler:
    """Makes videos of one batch of prompts, which are encoded once."""

    def __init__(
        self,
        cfg: SamplesConfig,
        pipeline: Pipeline,
        max_sequence_length: int,
        prompts: Sequence[str],
        seeds: Sequence[int] | None = None,
    ):
        """Encodes the prompts and draws the noise.

        Args:
            seeds: of each video's noise. None: they follow from the config's.
        """
        options = SamplingOptions(
            num_steps=cfg.num_steps, guidance_scale=cfg.guidance_scale, distilled=cfg.distilled, seed=cfg.seed
        )
        self._pipeline, self._scale = pipeline, options.scale
        self._schedule = jnp.asarray(options.schedule(pipeline.shift), jnp.float32)
        shape = pipeline.latent_shape(cfg.num_frames, *cfg.size)
        seeds = options.seeds(len(prompts)) if seeds is None else seeds
        self._noise_BTHWC = jnp.stack([jax.random.normal(jax.random.key(seed), shape) for seed in seeds])
        negative = [""] * len(prompts) if options.scale > 1 else []
        self._text = pipeline.encode_text([*negative, *prompts], max_sequence_length)

    def videos(self, model: LongCatVideo, variables: Params) -> UInt8[np.ndarray, "B T H W 3"]:
        """One video a prompt."""
        latents_BTHWC, _ = denoise(
            model, variables, self._noise_BTHWC, None, *self._text, self._schedule, jnp.float32(self._scale)
        )
        vae, params = self._pipeline.vae, self._pipeline.params("vae")
        videos = [decode_latents(vae, params, one[None], "decode") for one in latents_BTHWC]
        return np.concatenate([to_uint8(np.asarray(video)) for video in videos])


def reconstructions(model: WanVAE, params: Params, video_BTHWC: Array) -> UInt8[np.ndarray, "B T H W 3"]:
    """Clips, and beside each what the autoencoder makes of it."""
    back = _reconstruct(model, params, video_BTHWC)
    return np.concatenate([np.asarray(video_BTHWC), to_uint8(np.asarray(back))], axis=3)


@functools.partial(jax.jit, static_argnums=0)
def _reconstruct(model: WanVAE, params: Params, video_BTHWC: Array) -> Array:
    apply: Any = model.apply
    return apply({"params": params}, video_BTHWC.astype(jnp.float32) / 127.5 - 1) / 2 + 0.5


def grid(
    videos_BTHWC: UInt8[np.ndarray, "B T H W 3"], labels: Sequence[str] = (), shown: int = SHOWN_FRAMES
) -> UInt8[np.ndarray, "height width 3"]:
    """A row for each video, some of its frames from left to right, with its label above it.

    Args:
        labels: one a row, or fewer: each is of as many rows. None: no labels.
        shown: frames of each video.
    """
    places = evenly(videos_BTHWC.shape[1], shown)
    rows = rearrange(videos_BTHWC[:, places], "B T H W C -> B H (T W) C")
    if not labels:
        return np.concatenate(rows)
    each = len(rows) // len(labels)
    parts = []
    for number, text in enumerate(labels):
        parts += [label(text, rows.shape[2]), *rows[number * each : (number + 1) * each]]
    return np.concatenate(parts)


def widened(image_HWC: UInt8[np.ndarray, "H W 3"], width: int) -> UInt8[np.ndarray, "H width 3"]:
    """An image with white to its right, up to a width."""
    return np.pad(image_HWC, ((0, 0), (0, width - image_HWC.shape[1]), (0, 0)), constant_values=255)


def label(text: str, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """A strip with a text, in lines as wide as it is."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=LABEL_SIZE)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= width - 4 else [*lines, word]
    strip = Image.new("RGB", (width, (LABEL_SIZE + 3) * len(lines) + 3), "white")
    ImageDraw.Draw(strip).multiline_text((2, 0), "\n".join(lines), fill="black", font=font, spacing=2)
    return np.asarray(strip)
