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
from typing import Annotated, Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.array_types import Array, Bool, Float, Int, Params, PRNGKeyArray, PyTree
from lcv_jax.bounds import Bounds, Count, Whole, check_fields
from lcv_jax.config import DiTConfig
from lcv_jax.diffusion.sampler import sample, sample_renoising
from lcv_jax.models.dit import Cache, CachedFrames, LongCatVideo
from lcv_jax.models.streamed import OVERLAP
from lcv_jax.models.vae import WanVAE, denormalise_latents
from lcv_jax.sampling.denoise import guided_velocity


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamWindow:
    """What a chunk sees, in latent frames. The defaults add up to 24, which the released model was trained on.

    Raises:
        ValueError: a value out of range, a sink larger than the ring, or a ring shorter than a chunk.
    """

    chunk: Annotated[int, Bounds(least=1, most=4)] = 3
    """Latent frames that are denoised together."""
    sink: Whole = 3
    """First latent frames of the stream, kept for good."""
    ring: Count = 18
    """Last latent frames that are kept."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.sink > self.ring:
            raise ValueError(f"sink must not exceed ring, got sink={self.sink} and ring={self.ring} latent frames")
        if self.ring < self.chunk:
            raise ValueError(f"ring must hold a chunk at least, got ring={self.ring} and chunk={self.chunk}")

    @property
    def size(self) -> int:
        """Latent frames in the cache."""
        return self.sink + self.ring

    def check_blocks(self, frames: int) -> None:
        """Raises ValueError unless all parts are whole blocks of so many latent frames (block-sparse attention)."""
        for name in ("chunk", "sink", "ring"):
            if getattr(self, name) % frames:
                raise ValueError(
                    f"block-sparse attention needs {name} in multiples of {frames} latent frames, "
                    f"got {getattr(self, name)}: use dense attention, or another {name}"
                )

    def slots(self, num_frames: Int[Array, ""]) -> Int[Array, " c"]:
        """Where in the cache the next chunk goes, after so many frames of the stream."""
        index = num_frames + jnp.arange(self.chunk)
        return jnp.where(index < self.sink, index, self.sink + (index - self.sink) % self.ring)

    def cached_frames(self, num_frames: Int[Array, ""]) -> CachedFrames:
        """Where the cache's frames are in the window, after so many frames of the stream; absent ones anywhere."""
        slot = jnp.arange(self.size)
        # The last frame that was written to a ring slot: the largest index below num_frames that leads there.
        last = num_frames - 1 - (num_frames - 1 - slot) % self.ring
        index = jnp.where(slot < self.sink, slot, last)
        dropped = jnp.maximum(num_frames - self.size, 0)
        return CachedFrames(
            positions_T=jnp.where(slot < self.sink, slot, index - dropped),
            next_position=num_frames - dropped,
            present_T=slot < num_frames,
        )


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
    slots = window.slots(num_frames)

    def put(cached_PBMNK: Array, own_PBSNK: Array) -> Array:
        P, B, _, N, K = cached_PBMNK.shape
        by_frame = cached_PBMNK.reshape(P, B, window.size, -1, N, K)
        new = own_PBSNK.reshape(P, B, window.chunk, -1, N, K).astype(by_frame.dtype)
        return by_frame.at[:, :, slots].set(new).reshape(cached_PBMNK.shape)

    return x_BTHWC, jax.tree.map(put, cache, own)


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
