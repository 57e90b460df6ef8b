"""Endless video in causal chunks: a chunk of latent frames is denoised against a cache of the clean chunks before it.

The cache holds keys (before RoPE) and values of the first `sink` latent frames for good and of the last `ring` ones, in
arrays of fixed size, so that memory and time per chunk are constant and one compiled program serves every chunk (with
block-sparse attention two: while the cache fills, attention is dense). Positions count within the present window (sink,
ring, chunk), so they never exceed its length; as keys are cached before RoPE this is exact. After denoising, the
finished chunk runs once more, clean and without a caption, as condition frames do (report section 3.2), and its keys
and values replace the oldest ones. The autoencoder decodes along, with its causal cache. Block-causal sampling follows
CausVid (arXiv 2412.07772) and Self Forcing (arXiv 2506.08009).
"""

import dataclasses
import functools
import inspect
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.array_types import Array, Bool, Float, Int, Params, PRNGKeyArray, PyTree
from lcv_jax.config import DiTConfig
from lcv_jax.diffusion.sampler import sample, sample_renoising
from lcv_jax.models.dit import Cache, LongCatVideo
from lcv_jax.models.stream_window import StreamWindow, write_frames
from lcv_jax.models.streamed import OVERLAP
from lcv_jax.models.vae import WanVAE, denormalise_latents
from lcv_jax.sampling.denoise import guided_velocity


@flax.struct.dataclass
class StreamState:
    """All that a stream carries from one chunk to the next."""

    num_frames: Int[Array, ""]
    """Latent frames so far."""
    cache: Cache
    decoder: PyTree
    """Cache of the autoencoder; None before the first frame."""


def start_stream(
    cfg: DiTConfig, window: StreamWindow, height: int, width: int, dtype: Any = jnp.float32
) -> StreamState:
    """The state of a stream that has not begun.

    Args:
        height, width: of the latents.
        dtype: of keys and values: what the transformer computes in.
    """
    tokens = height // cfg.patch_size[1] * (width // cfg.patch_size[2])
    shape = (cfg.depth, 1, window.size * tokens, cfg.num_heads, cfg.head_dim)
    cache = {"k": jnp.zeros(shape, dtype), "v": jnp.zeros(shape, dtype)}
    return StreamState(jnp.int32(0), cache, None)


_jit_next = functools.partial(jax.jit, static_argnames=("model", "window", "renoise", "full"), donate_argnames="cache")


@_jit_next
def next_latents(
    model: LongCatVideo,
    variables: Params,
    cache: Cache,
    num_frames: Int[Array, ""],
    noise_BTHWC: Float[Array, "B T H W C"],
    text_GLD: Float[Array, "G L D"],
    text_mask_GL: Bool[Array, "G L"],
    schedule: Float[Array, " steps"],
    guidance_scale: Float[Array, ""],
    key: PRNGKeyArray,
    *,
    window: StreamWindow,
    renoise: bool = False,
    full: bool = False,
) -> tuple[Float[Array, "B T H W C"], Cache]:
    """Denoises the next chunk and appends its keys and values; the cache that came in is used up.

    Args:
        num_frames: latent frames of the stream before this chunk.
        noise_BTHWC: where the chunk starts, B = 1.
        text_GLD, text_mask_GL, schedule, guidance_scale: as in `sampling.denoise.denoise`; they may differ from chunk
            to chunk.
        key: of the fresh noise, where `renoise`.
        renoise: predict the clean chunk at every step and add fresh noise (distilled models), instead of Euler steps.
        full: the caller knows that the cache has no absent frames; block-sparse attention is used only then.
    """
    frames = window.cached_frames(num_frames)
    if full:
        frames = dataclasses.replace(frames, present_T=None)
    velocity = guided_velocity(
        model, variables, text_GLD, text_mask_GL, guidance_scale, cache=cache, cached_frames=frames
    )
    if renoise:
        x_BTHWC = sample_renoising(velocity, noise_BTHWC, schedule, key)
    else:
        x_BTHWC = sample(velocity, noise_BTHWC, schedule)
    apply: Any = model.apply
    own = apply(variables, x_BTHWC, cache, frames, method="encode_condition")
    return x_BTHWC, write_frames(cache, own, window.slots(num_frames))


next_latents_streamed = _jit_next(inspect.unwrap(next_latents), compiler_options=OVERLAP)
"""`next_latents` for a transformer whose layers rest in the host's memory (models/streamed.py)."""


@functools.partial(jax.jit, static_argnames="vae", donate_argnames="cache")
def decode_next(
    vae: WanVAE, params: Params, latents_BTHWC: Float[Array, "B T H W C"], cache: PyTree
) -> tuple[Float[Array, "B t h w c"], PyTree]:
    """The frames in [0, 1] of the next normalised latents, and the decoder's cache; see `WanVAE.decode_piece`."""
    apply: Any = vae.apply
    latents = denormalise_latents(latents_BTHWC, vae.cfg)
    video, cache = apply({"params": params}, latents, cache, method="decode_piece")
    return video / 2 + 0.5, cache


def decode_chunk(
    vae: WanVAE, params: Params, latents_BTHWC: Float[Array, "B T H W C"], cache: PyTree
) -> tuple[np.ndarray, PyTree]:
    """Frames T H W 3 in [0, 1] of the next latents of a stream, whose very first one is decoded alone."""
    videos = []
    if cache is None:
        video, cache = decode_next(vae, params, latents_BTHWC[:, :1], None)
        videos, latents_BTHWC = [video], latents_BTHWC[:, 1:]
    if latents_BTHWC.shape[1]:
        video, cache = decode_next(vae, params, latents_BTHWC, cache)
        videos.append(video)
    return np.concatenate([np.asarray(video[0]) for video in videos]), cache
