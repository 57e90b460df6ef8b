"""The compiled programs of a pipeline: the one sampling loop behind every task, and what stands before and after it.

Each compiles once a shape. Networks are static arguments, parameters are shared and never copied.

Where `jax.set_mesh` set a mesh they run on all of its devices: the transformer splits tokens and the batch
(models/dit.py), the autoencoder the rows of frames; the partitioner exchanges what convolutions see of their
neighbours' rows. What they return is whole on every device, so that every host can read it.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from lcv_jax.array_types import Array, Bool, Float, Params, PRNGKeyArray
from lcv_jax.data.resample import upsample
from lcv_jax.diffusion.guidance import cfg_zero
from lcv_jax.diffusion.sampler import Velocity, sample
from lcv_jax.diffusion.step_cache import WatchedVelocity, sample_with_step_cache
from lcv_jax.models.dit import Cache, CachedFrames, LongCatVideo
from lcv_jax.models.streamed import OVERLAP
from lcv_jax.models.umt5 import UMT5Encoder
from lcv_jax.models.vae import WanVAE, denormalise_latents, normalise_latents, sample_posterior

ROWS = (None, None, ("data", "fsdp", "seq"))
"""One video at a time, B T H W C: its rows over all devices."""


_jit_denoise = functools.partial(jax.jit, static_argnames=("model", "use_cache", "guide_condition", "report"))


@_jit_denoise
def denoise(
    model: LongCatVideo,
    variables: Params,
    noise_BTHWC: Float[Array, "B T H W C"],
    condition_bTHWC: Float[Array, "b t H W C"] | None,
    text_GLD: Float[Array, "G L D"],
    text_mask_GL: Bool[Array, "G L"],
    schedule: Float[Array, " steps"],
    guidance_scale: Float[Array, ""],
    *,
    use_cache: bool = True,
    guide_condition: bool = False,
    report: bool = False,
    step_cache: Float[Array, ""] | None = None,
) -> tuple[Float[Array, "B all H W C"], Bool[Array, " steps"] | None]:
    """Samples latents: the one loop behind every task.

    Args:
        model: the transformer; variables: its parameters and, if any, run-time adapters.
        noise_BTHWC: where the noisy frames start.
        condition_bTHWC: clean latent frames before them, one a sample or one for all; None: there are none.
        text_GLD: embeddings of the prompts, G = B; with guidance those of the negative prompts before them, G = 2 B.
        schedule: noise levels, falling.
        guidance_scale: of CFG-Zero, where there is guidance.
        use_cache: compute the condition's keys and values once.
        guide_condition: let condition frames count in CFG-Zero's scale; they are computed at every step then.
        report: tell the listener (see `reporting`) of every step.
        step_cache: threshold below which steps are skipped (diffusion/step_cache.py); None evaluates all of them.

    Returns:
        The latents, condition frames included, and which steps evaluated the transformer; None is all.
    """
    B = noise_BTHWC.shape[0]
    velocity = watched_velocity(
        model, variables, text_GLD, text_mask_GL, guidance_scale, condition_bTHWC,
        use_cache=use_cache, guide_condition=guide_condition and text_GLD.shape[0] > B,
    )  # fmt: skip
    on_step = _tell_listener if report else None
    if step_cache is None:
        x_BTHWC = sample(lambda x, t: velocity(x, t)[0], noise_BTHWC, schedule, on_step)
        evaluated = None
    else:
        x_BTHWC, evaluated = sample_with_step_cache(velocity, noise_BTHWC, schedule, step_cache, on_step)
    if condition_bTHWC is not None:
        clean = jnp.tile(condition_bTHWC, (B // condition_bTHWC.shape[0], 1, 1, 1, 1))
        x_BTHWC = jnp.concatenate([clean, x_BTHWC], axis=1)
    return _place(x_BTHWC), None if evaluated is None else _place(evaluated)


def guided_velocity(*arguments: Any, **options: Any) -> Velocity:
    """The first of what `watched_velocity` gives: the velocity that sampling follows; the same arguments."""
    velocity = watched_velocity(*arguments, **options)
    return lambda x_BTHWC, t: velocity(x_BTHWC, t)[0]


def watched_velocity(
    model: LongCatVideo,
    variables: Params,
    text_GLD: Float[Array, "G L D"],
    text_mask_GL: Bool[Array, "G L"],
    guidance_scale: Float[Array, ""],
    condition_bTHWC: Float[Array, "b t H W C"] | None = None,
    *,
    use_cache: bool = True,
    guide_condition: bool = False,
    cache: Cache | None = None,
    cached_frames: CachedFrames | None = None,
) -> WatchedVelocity:
    """The velocity that sampling follows, of noisy frames B T H W C at a time, and what a step cache watches.

    That is the output for the prompts, every second row and column; the arguments are as in `denoise`.

    Args:
        cache: keys and values of clean frames instead of `condition_bTHWC`; cached_frames: where those are in time.
    """
    apply: Any = model.apply
    G = text_GLD.shape[0]
    num_condition = 0 if condition_bTHWC is None else condition_bTHWC.shape[1]
    if condition_bTHWC is not None and use_cache and not guide_condition:
        cache = apply(variables, condition_bTHWC, method="encode_condition")

    def velocity(x_BTHWC: Array, t: Array) -> tuple[Array, Array]:
        B = x_BTHWC.shape[0]
        x_GTHWC = jnp.tile(x_BTHWC, (G // B, 1, 1, 1, 1))
        timesteps_GT = jnp.broadcast_to(1000 * t, x_GTHWC.shape[:2])
        shared = 0
        if condition_bTHWC is not None and cache is None:
            clean = jnp.tile(condition_bTHWC, (G // condition_bTHWC.shape[0], 1, 1, 1, 1))
            x_GTHWC = jnp.concatenate([clean, x_GTHWC], axis=1)
            timesteps_GT = jnp.pad(timesteps_GT, ((0, 0), (num_condition, 0)))
            shared = num_condition
        v_GTHWC: Array = apply(variables, x_GTHWC, timesteps_GT, text_GLD, text_mask_GL, shared, cache, cached_frames)
        watched = v_GTHWC[G - B :, shared:, ::2, ::2]
        if G == B:
            return v_GTHWC[:, shared:], watched
        guided = v_GTHWC if guide_condition else v_GTHWC[:, shared:]
        without, with_prompt = jnp.split(guided, 2)
        return cfg_zero(with_prompt, without, guidance_scale)[:, shared if guide_condition else 0 :], watched

    return velocity


Listener = Callable[[int], None]
_reporting = threading.Lock()
_listener: Listener | None = None
_stopped_by: BaseException | None = None


def _tell_listener(steps_done: Any) -> Any:
    """The one function that compiled loops call back: a new one for each call would compile anew.

    Returns:
        Whether to go on.
    """
    global _stopped_by
    if _listener is not None and _stopped_by is None:
        try:
            _listener(int(steps_done))
        except BaseException as error:
            _stopped_by = error
    return np.bool_(_stopped_by is None)


@contextmanager
def reporting(listener: Listener | None) -> Iterator[None]:
    """Within, `denoise(..., report=True)` calls `listener` with the number of steps done; one thread at a time.

    An exception of the listener ends the loop after that step, and is raised here.
    """
    global _listener, _stopped_by
    if listener is None:
        yield
        return
    with _reporting:
        _listener, _stopped_by = listener, None
        try:
            yield
            jax.effects_barrier()
            if _stopped_by is not None:
                raise _stopped_by
        finally:
            _listener = _stopped_by = None


_jit_encode_text = functools.partial(jax.jit, static_argnames="encoder")


@_jit_encode_text
def encode_text(encoder: UMT5Encoder, params: Params, ids_BL: Array, mask_BL: Array) -> Array:
    """Embeddings of token ids, G L D."""
    apply: Any = encoder.apply
    return _place(apply({"params": params}, ids_BL, mask_BL))


denoise_streamed = _jit_denoise(inspect.unwrap(denoise), compiler_options=OVERLAP)
"""`denoise` for a transformer whose layers rest in the host's memory (models/streamed.py)."""
encode_text_streamed = _jit_encode_text(inspect.unwrap(encode_text), compiler_options=OVERLAP)


@functools.partial(jax.jit, static_argnames=("vae", "method"))
def encode_frames(vae: WanVAE, params: Params, video_BTHWC: Array, key: PRNGKeyArray | None, method: str) -> Array:
    """Normalised latents of a video in [0, 1]; without a key their mode."""
    apply: Any = vae.apply
    mean, logvar = apply({"params": params}, 2 * _place(video_BTHWC, *ROWS) - 1, method=method)
    return _place(normalise_latents(sample_posterior(mean, logvar, key), vae.cfg))


@functools.partial(jax.jit, static_argnames=("vae", "method"))
def decode_latents(vae: WanVAE, params: Params, latents_BTHWC: Array, method: str) -> Array:
    """The video in [0, 1] of normalised latents."""
    apply: Any = vae.apply
    video = apply({"params": params}, denormalise_latents(_place(latents_BTHWC, *ROWS), vae.cfg), method=method)
    return _place(jnp.clip(video / 2 + 0.5, 0, 1))  # blended tiles may leave the range


def _place(x: Array, *axes: Any) -> Array:
    """Splits the axes of an array over those of the mesh that is set, if one is; no axes: whole on every device."""
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.empty else jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))


upsample_clip = jax.jit(upsample, static_argnums=(1, 2, 3))
