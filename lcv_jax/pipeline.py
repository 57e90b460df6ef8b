"""From a prompt, an image or a clip to a video: thin methods over one jitted sampling loop.

    pipeline = load_pipeline("checkpoints/longcat")
    video_BTHWC = pipeline.text_to_video("a cat surfs a wave", num_frames=93)

All tasks are `denoise` (sampling/denoise.py) with different conditions: none, the latent of an image, those of a clip's
last frames, or those of refined frames. A video is B T H W 3, float32 in [0, 1]; latents and noise are B T H W C.
"""

import collections
import contextlib
import dataclasses
import functools
import json
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lcv_jax.array_types import Array, Params
from lcv_jax.checkpoint import store
from lcv_jax.checkpoint.streamed import STACKS, check_host_memory, load_streamed, onto_device
from lcv_jax.config import BlockSparseConfig, DiTConfig
from lcv_jax.data.buckets import nearest_bucket
from lcv_jax.data.captions import CaptionTokenizer, load_tokenizer
from lcv_jax.data.frames import resize_and_crop, to_uint8
from lcv_jax.diffusion.flow import mix
from lcv_jax.models.dit import LongCatVideo, sparse_order
from lcv_jax.models.lora import combine, fold
from lcv_jax.models.streamed import resting_place
from lcv_jax.models.umt5 import UMT5Encoder
from lcv_jax.models.vae import WanVAE
from lcv_jax.parallel.context import ContextParallel
from lcv_jax.parallel.sharding import REPLICATED, Rules, host_rule, loading_rule, onto_devices
from lcv_jax.sampling.denoise import (
    decode_latents,
    denoise,
    denoise_streamed,
    encode_frames,
    encode_text,
    encode_text_streamed,
    reporting,
    upsample_clip,
)
from lcv_jax.sampling.options import (
    DISTILLED_ADAPTER,
    REFINEMENT_ADAPTER,
    STREAM_ADAPTER,
    SamplingOptions,
    as_prompts,
    check_choice,
    check_condition,
    check_refinement,
    check_size,
    check_stream,
    whole_frames,
)
from lcv_jax.sampling.stream import Stream, trained_causally
from lcv_jax.sampling.streaming import (
    StreamState,
    StreamWindow,
    decode_chunk,
    next_latents,
    next_latents_streamed,
    start_stream,
)

Frames = np.ndarray
"""A clip, T H W 3: uint8, or float in [0, 1]."""
Output = Literal["video", "latents"]
OnStep = Callable[[int, int], None]
"""Called with the number of steps done and of all steps. An exception that it raises ends the sampling after that step,
on all devices of this process, and reaches the caller."""

POSTERIOR_STREAM = 1
"""Folded into a seed's key for draws of the autoencoder's posterior; the sampler's noise uses the key itself."""


CAPTIONS_KEPT = 256
"""Embeddings of prompts that are remembered in host memory, the last ones used; of 512 tokens each takes 4 MB."""


def load_pipeline(folder: str | Path, **settings: Any) -> "Pipeline":
    """A pipeline over a folder that convert_torch_weights.py wrote; parameters load when they are first used.

    Args:
        folder: the converted checkpoint.
        settings: fields of `Pipeline`.

    Raises:
        ValueError: no such folder, a folder that is no converted checkpoint, or one of another version.
    """
    return Pipeline(folder=Path(folder), **settings)


@dataclasses.dataclass(kw_only=True)
class Pipeline:
    """The networks of a checkpoint and what they make. Methods take `SamplingOptions` as keywords."""

    folder: Path
    dtype: Any = None
    """What to cast parameters to while loading, "float32" or "bfloat16"; None: as stored."""
    fold_adapters: bool = True
    """Fold adapters into a copy of the weights; otherwise add them as the model runs: slower, but no copy. Quantized
    weights always have them added as the model runs."""
    keep_text_encoder: Literal["device", "host", "disk"] = "device"
    """Where the text encoder's parameters stay between encodings: on the devices; in host memory, copied to the devices
    for an encoding and freed there after it; or nowhere but on disk, and read again."""
    weights: Literal["resident", "stream"] = "resident"
    """Where the layers of the transformer and the text encoder stay: on the device; or in pinned host memory, copied to
    the device layer by layer as they run, with the next one under way. Adapters are then added as the model runs."""
    vae_tiles: bool = False
    """Encode and decode in overlapping tiles: less memory, nearly the same result."""
    mesh: Mesh | None = None
    """Devices that work together, of parallel/mesh.py; None: the default device."""
    context: ContextParallel = ContextParallel()  # noqa: RUF009
    """How attention is split over the mesh."""
    rules: Rules = REPLICATED
    """Where parameters lie on the mesh, a table of parallel/sharding.py."""

    def __post_init__(self) -> None:
        self.provenance = store.read_provenance(self.folder)
        self.dit_config: DiTConfig = store.load_config(self.folder, "dit")
        self.vae = WanVAE(store.load_config(self.folder, "vae"))
        self.text_encoder = UMT5Encoder(store.load_config(self.folder, "text_encoder"))
        scheduler = store.load_scheduler_config(self.folder)
        self.shift, self.t_thresh = scheduler.shift, scheduler.t_thresh
        self._resting = self._resting_place()
        streams = self.weights == "stream"
        self.fold_adapters = self.fold_adapters and not streams and not store.is_quantized(self.folder)
        self._check_networks()
        check_choice("keep_text_encoder", self.keep_text_encoder, ("device", "host", "disk"))
        self._params: dict[str, Params] = {}
        self._text_encoder_on_host: Params | None = None
        self._captions: collections.OrderedDict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = (
            collections.OrderedDict()
        )
        self._active: tuple[tuple[tuple[str, float], ...], Params] | None = None
        self.skipped_steps: list[tuple[int, ...]] = []
        """Steps, from 0, that the step cache skipped: an entry for every sampling that used it."""

    def _resting_place(self) -> Any:
        """Where streamed layers rest.

        Raises:
            ValueError: too little host memory, or a mesh.
        """
        check_choice("weights", self.weights, ("resident", "stream"))
        if self.weights == "resident":
            return None
        if self.mesh is not None:
            raise ValueError("weights=stream is for one device: on several use --parameters split instead")
        resting = resting_place()
        if resting is None:
            warnings.warn(
                f"weights=stream: {jax.devices()[0].device_kind} has no pinned host memory; "
                "the weights stay on the device",
                stacklevel=4,
            )
            self.weights = "resident"
            return None
        check_host_memory(self.folder, self.dtype, self.keep_text_encoder)
        return resting

    def _check_networks(self) -> None:
        """Raises ValueError for networks that do not fit one another."""
        dit, vae, text = self.dit_config, self.vae.cfg, self.text_encoder.cfg
        pairs = {
            "dit.caption_channels and text_encoder.d_model": (dit.caption_channels, text.d_model),
            "dit.in_channels and vae.z_dim": (dit.in_channels, vae.z_dim),
            "dit.out_channels and vae.z_dim": (dit.out_channels, vae.z_dim),
        }
        for names, (one, other) in pairs.items():
            if one != other:
                raise ValueError(f"{self.folder}: {names} must be equal, got {one} and {other}")

    def text_to_video(
        self,
        prompt: str | Sequence[str],
        *,
        height: int = 480,
        width: int = 832,
        num_frames: int = 93,
        noise: np.ndarray | Array | None = None,
        output: Output = "video",
        on_step: OnStep | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Videos of prompts.

        Args:
            prompt: one, or several for a batch.
            height: in pixels, a multiple of 16; width: likewise.
            num_frames: 4k + 1; more than 93 were never trained.
            noise: instead of the seed's.
            output: "video", B T H W 3 in [0, 1], or "latents", normalised.
            on_step: told of every step.
            options: fields of `SamplingOptions`.

        Raises:
            ValueError: sizes off the grid, options out of range.
        """
        chosen = SamplingOptions(**options)
        check_choice("output", output, ("video", "latents"))
        check_size(height, width, self.granularity(bool(chosen.sparse)))
        shape = self.latent_shape(whole_frames(num_frames), height, width)
        latents = self._sample(prompt, chosen, shape, chosen.schedule(self.shift), noise=noise, on_step=on_step)
        return self._finish(latents, output)

    def image_to_video(
        self,
        image: Frames,
        prompt: str | Sequence[str],
        *,
        size: tuple[int, int] | None = None,
        resolution: str = "480p",
        num_frames: int = 93,
        fit: Literal["crop", "stretch"] = "crop",
        noise: np.ndarray | Array | None = None,
        output: Output = "video",
        on_step: OnStep | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Videos that begin with an image, H W 3.

        Args:
            image: uint8 or float in [0, 1]; the first frame.
            prompt: one, or several for a batch from the same image.
            size: height and width; None: the aspect-ratio bucket nearest to the image's.
            resolution: of the buckets, "480p" or "720p".
            num_frames: 4k + 1, the image included.
            fit: how the image gets the bucket's shape: by cropping its centre, or stretched (as published).
            noise, output, on_step, options: as in `text_to_video`; noise covers the image's latent frame too.

        Raises:
            ValueError: an image that is none, options out of range.
        """
        if options.get("enhance_hf") is None:
            options["enhance_hf"] = False
        return self.continue_video(
            np.asarray(image)[None],
            prompt,
            num_cond_frames=1,
            size=size,
            resolution=resolution,
            num_frames=num_frames,
            fit=fit,
            noise=noise,
            output=output,
            on_step=on_step,
            **options,
        )

    def continue_video(
        self,
        video: Frames,
        prompt: str | Sequence[str],
        *,
        num_cond_frames: int = 13,
        size: tuple[int, int] | None = None,
        resolution: str = "480p",
        num_frames: int = 93,
        fit: Literal["crop", "stretch"] = "crop",
        noise: np.ndarray | Array | None = None,
        output: Output = "video",
        on_step: OnStep | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Videos that go on from the last frames of a clip, T H W 3.

        Args:
            video: uint8 or float in [0, 1], at the frame rate to go on with (the model was trained at 15 a second).
            prompt: one, or several for a batch from the same clip.
            num_cond_frames: 4k + 1 last frames of the clip to go on from; they are the first of the result.
            size, resolution, num_frames, fit, noise, output, on_step, options: as in `image_to_video`.

        Raises:
            ValueError: a clip shorter than num_cond_frames, options out of range.
        """
        chosen = SamplingOptions(**options)
        check_choice("output", output, ("video", "latents"))
        num_frames = whole_frames(num_frames)
        check_condition(num_cond_frames, num_frames, len(video))
        height, width = self._size(video, size, resolution, sparse=bool(chosen.sparse))
        frames = _fit(video[-num_cond_frames:], height, width, fit)
        condition = self._encode(frames, chosen)
        latents = self._sample(
            prompt,
            chosen,
            self.latent_shape(num_frames, height, width),
            chosen.schedule(self.shift, continuation=True),
            condition=condition,
            noise=noise,
            on_step=on_step,
        )
        return self._finish(latents, output)

    def refine(
        self,
        video: Frames,
        prompt: str | Sequence[str] = "",
        *,
        condition_video: Frames | None = None,
        num_cond_frames: int = 0,
        size: tuple[int, int] | None = None,
        spatial_only: bool = False,
        t_thresh: float | None = None,
        noise: np.ndarray | Array | None = None,
        output: Output = "video",
        on_step: OnStep | None = None,
        **options: Any,
    ) -> np.ndarray:
        """A 480p, 15 fps video at 720p and 30 fps (report section 3.6).

        The video is upsampled to the bucket's shape, encoded, noised up to `t_thresh` and denoised from there with the
        refinement adapter and block-sparse attention. Works on any video.

        Args:
            video: T H W 3, uint8 or float in [0, 1].
            prompt: of the video; may be empty.
            condition_video: frames at 720p whose last `num_cond_frames` stand at the front of the result, such as those
                of the segment before, refined.
            num_cond_frames: how many frames of the result (at its frame rate) are given.
            size: height and width; None: the 720p bucket nearest to the video's aspect ratio.
            spatial_only: keep the number of frames instead of doubling it.
            t_thresh: noise level to start from; None: the checkpoint's, 0.5 of the released one.
            noise, output, on_step, options: as in `text_to_video`; latents include the padding to whole blocks.

        Raises:
            ValueError: num_cond_frames without frames to take, or more than the result has; options out of range.
        """
        chosen = SamplingOptions(**options)
        check_choice("output", output, ("video", "latents"))
        check_refinement(chosen)
        sparse = chosen.sparse is None or chosen.sparse
        num_frames = len(video) if spatial_only else 2 * len(video)
        available = 0 if condition_video is None else len(condition_video)
        if not 0 <= num_cond_frames <= min(available, num_frames - 1):
            raise ValueError(
                f"num_cond_frames must lie in 0..{min(available, num_frames - 1)}: the result has {num_frames} frames "
                f"and condition_video {available}; got {num_cond_frames}"
            )
        padding = refinement_padding(num_frames, num_cond_frames, self._frame_blocks(), self.vae.cfg.temporal_factor)
        front, behind = padding
        height, width = self._size(video, size, "720p", sparse=True)
        large = upsample_clip(_as_float(video), num_frames, height, width)
        large = jnp.concatenate([jnp.repeat(large[:1], front, axis=0), large, jnp.repeat(large[-1:], behind, axis=0)])
        start = self._encode(large, chosen)
        del large
        condition = None
        if condition_video is not None and num_cond_frames:
            frames = _fit(condition_video[-num_cond_frames:], height, width, "stretch")
            condition = self._encode(np.concatenate([np.repeat(frames[:1], front, axis=0), frames]), chosen)
        latents = self._sample(
            prompt,
            dataclasses.replace(chosen, sparse=sparse, guidance_scale=1.0),
            start.shape[1:],
            chosen.schedule(self.shift, t_thresh=self.t_thresh if t_thresh is None else t_thresh),
            condition=condition,
            start=start,
            own_adapters=((REFINEMENT_ADAPTER, 1.0),),
            noise=noise,
            on_step=on_step,
        )
        result = self._finish(latents, output)
        return result if output == "latents" else result[:, front : front + num_frames]

    def stream(
        self,
        prompt: str,
        *,
        height: int = 480,
        width: int = 832,
        window: StreamWindow = StreamWindow(),  # noqa: B008  (frozen)
        resume: str | Path | None = None,
        **options: Any,
    ) -> Stream:
        """Endless video, frame by frame, in causal chunks; `send` changes the prompt while it goes on.

        Memory and time per chunk are constant. With `distilled` the adapter's few steps are taken, with fresh noise
        between them; otherwise Euler steps. The adapter is the checkpoint's `stream_lora` if it has one.

        Args:
            prompt: of the first chunks.
            height: in pixels, a multiple of 16; width: likewise.
            window: latent frames per chunk, and how many a chunk sees.
            resume: file of `Stream.save`; the stream continues there, with the saved prompt.
            options: fields of `SamplingOptions`.

        Raises:
            ValueError: sizes off the grid, options out of range, a window off the grid of sparse blocks, a saved stream
                of other settings.
        """
        chosen = SamplingOptions(**options)
        sparse = bool(chosen.sparse)
        (prompt,) = as_prompts(prompt)
        check_size(height, width, self.granularity(sparse))
        check_stream(chosen)
        if sparse:
            window.check_blocks(self._frame_blocks())
        adapted = self._with_stream_adapter(chosen)
        if not trained_causally(self.provenance, (name for name, _ in self._wanted_adapters(adapted, ()))):
            warnings.warn(
                "this checkpoint was not trained on causal chunks: expect motion and textures to drift over a long "
                "stream; docs/streaming.md tells how to train it",
                stacklevel=2,
            )
        model, schedule = self._model(sparse), jnp.asarray(chosen.schedule(self.shift), jnp.float32)
        shape = (1, window.chunk, *self.latent_shape(1, height, width)[1:])
        key = jax.random.key(chosen.first_seed)

        def make_chunk(state: StreamState, prompt: str) -> tuple[np.ndarray, StreamState]:
            asked = [chosen.negative_prompt, prompt] if chosen.scale > 1 else [prompt]
            text, mask = self.encode_text(asked, chosen.max_sequence_length)
            own_key = jax.random.fold_in(key, state.num_frames)
            with self._on_mesh():
                make = next_latents_streamed if self.weights == "stream" else next_latents
                latents, cache = make(
                    model, self._variables(adapted, ()), state.cache, state.num_frames,
                    jax.random.normal(own_key, shape), text, mask, schedule, jnp.float32(chosen.scale),
                    jax.random.fold_in(own_key, 1), window=window, renoise=chosen.distilled,
                    full=sparse and int(state.num_frames) >= window.size,
                )  # fmt: skip
                frames, decoder = decode_chunk(self.vae, self.params("vae"), latents, state.decoder)
            return to_uint8(frames), StreamState(state.num_frames + window.chunk, cache, decoder)

        rows, columns = shape[2:4]
        dtype = self.params("dit")["x_embedder"]["proj"]["kernel"].dtype
        facts = {
            **self.content(chosen),
            "height": height,
            "width": width,
            "dtype": dtype.name,
            "window": dataclasses.asdict(window),
            "options": {**dataclasses.asdict(chosen), "adapters": None},  # by content above
        }
        facts = json.loads(json.dumps(facts))
        stream = Stream(make_chunk, start_stream(self.dit_config, window, rows, columns, dtype), prompt, facts)
        if resume is not None:
            stream.restore(resume)
        return stream

    def params(self, network: str) -> Params:
        """The parameters of "dit", "vae" or "text_encoder" on the devices, loaded at the first call."""
        if network not in self._params and self.weights == "stream" and network in STACKS:
            self._params[network] = self._streamed_params(network)
        if network not in self._params:
            sharding = self._sharding(network)
            if network == "text_encoder" and self.keep_text_encoder == "host":
                if self._text_encoder_on_host is None:
                    resting = host_rule(self.mesh)
                    self._text_encoder_on_host = store.load_component(self.folder, network, self.dtype, resting)[1]
                self._params[network] = onto_devices(self._text_encoder_on_host, sharding)
            else:
                self._params[network] = store.load_component(self.folder, network, self.dtype, sharding)[1]
        return self._params[network]

    def _streamed_params(self, network: str) -> Params:
        """Parameters on the device, with layers that rest in the host's memory."""
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        if network != "text_encoder" or self.keep_text_encoder != "host":
            return load_streamed(self.folder, network, self.dtype, self._resting, device)
        if self._text_encoder_on_host is None:
            resting = self._resting
            self._text_encoder_on_host = load_streamed(self.folder, network, self.dtype, resting, resting)
        return onto_device(self._text_encoder_on_host, device)

    def _release_text_encoder(self) -> None:
        """Frees its memory on the devices, unless that is where it stays."""
        if self.keep_text_encoder != "device":
            self._params.pop("text_encoder", None)

    def _sharding(self, network: str) -> Any:
        if self.mesh is None:
            return None
        # The autoencoder is small, and convolutions want their kernels whole.
        return loading_rule(self.mesh, REPLICATED if network == "vae" else self.rules)

    def _on_mesh(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    @functools.cached_property
    def tokenizer(self) -> CaptionTokenizer:
        """The text encoder's tokenizer.

        Raises:
            ValueError: it has tokens that the text encoder does not know.
        """
        tokenizer, vocabulary = load_tokenizer(store.tokenizer_folder(self.folder)), self.text_encoder.cfg.vocab_size
        if tokenizer.largest_id >= vocabulary:
            raise ValueError(
                f"{self.folder}: the tokenizer has ids up to {tokenizer.largest_id}, the text encoder a vocabulary of "
                f"{vocabulary}: they belong to different checkpoints; convert again"
            )
        return tokenizer

    def encode_text(self, prompts: Sequence[str], max_sequence_length: int) -> tuple[Array, Array]:
        """Embeddings B L D of prompts and where they have tokens, B L.

        Prompts are encoded one by one, so that what becomes of one depends on no other, and not again while they are
        among the last `CAPTIONS_KEPT`. Give all at once where the text encoder does not stay on the device.
        """
        found = {}
        try:
            for prompt in prompts:
                if prompt not in found:
                    kept = self._captions.pop((prompt, max_sequence_length), None)
                    found[prompt] = kept or self._encode_prompt(prompt, max_sequence_length)
        finally:
            self._release_text_encoder()
        self._captions.update({(prompt, max_sequence_length): caption for prompt, caption in found.items()})
        while len(self._captions) > CAPTIONS_KEPT:
            self._captions.popitem(last=False)
        text_BLD, mask_BL = (np.stack(parts) for parts in zip(*(found[prompt] for prompt in prompts), strict=True))
        return jnp.asarray(text_BLD), jnp.asarray(mask_BL)

    def _encode_prompt(self, prompt: str, max_sequence_length: int) -> tuple[np.ndarray, np.ndarray]:
        """A prompt's embedding L D and where it has tokens, in host memory."""
        ids_BL, mask_BL = self.tokenizer.tokenize([prompt], max_sequence_length)
        with self._on_mesh():
            encode = encode_text_streamed if self.weights == "stream" else encode_text
            text_BLD = encode(self.text_encoder, self.params("text_encoder"), ids_BL, mask_BL)
        return np.asarray(text_BLD[0]), np.asarray(mask_BL[0], bool)

    def _encode(self, frames_THWC: np.ndarray | Array, options: SamplingOptions) -> Array:
        """Normalised latents of a clip, as a batch of one."""
        key = jax.random.fold_in(jax.random.key(options.first_seed), POSTERIOR_STREAM)
        method = "tiled_encode" if self.vae_tiles else "encode"
        drawn = key if options.posterior == "sample" else None
        with self._on_mesh():
            return encode_frames(self.vae, self.params("vae"), _as_float(frames_THWC)[None], drawn, method)

    def _finish(self, latents_BTHWC: Array, output: Output) -> np.ndarray:
        if output == "latents":
            return np.asarray(latents_BTHWC)
        method = "tiled_decode" if self.vae_tiles else "decode"
        params = self.params("vae")
        # One at a time: a batch would need its memory at once.
        with self._on_mesh():
            videos = [decode_latents(self.vae, params, one[None], method) for one in latents_BTHWC]
        return np.concatenate([np.asarray(video) for video in videos])

    def _sample(
        self,
        prompt: str | Sequence[str],
        options: SamplingOptions,
        shape: tuple[int, ...],
        schedule: Sequence[float],
        *,
        condition: Array | None = None,
        start: Array | None = None,
        own_adapters: tuple[tuple[str, float], ...] = (),
        noise: np.ndarray | Array | None = None,
        on_step: OnStep | None = None,
    ) -> Array:
        """Encodes the prompts and runs the loop.

        Args:
            shape: T H W C of the latents, condition included.
            condition: clean latents at the front, as a batch of one.
            start: latents that are noised up to the schedule's first level; None: start from noise alone.
            own_adapters: of the task.
        """
        prompts = as_prompts(prompt)
        batch = len(prompts)
        options.check_batch(batch)
        model = self._model(bool(options.sparse))
        num_condition = 0 if condition is None else condition.shape[1]
        if options.sparse:
            # The transformer would say so itself, after its weights have loaded.
            rows, columns = (shape[axis] // self.dit_config.patch_size[axis] for axis in (1, 2))
            sparse_order(self._blocks, (shape[0] - num_condition, rows, columns), num_condition)
        if noise is None:
            noise = jnp.stack([jax.random.normal(jax.random.key(seed), shape) for seed in options.seeds(batch)])
        elif noise.shape != (batch, *shape):
            raise ValueError(f"noise must be B T H W C = {(batch, *shape)}, got {noise.shape}")
        guided = options.scale > 1
        asked = [options.negative_prompt] * batch + prompts if guided else prompts
        text, mask = self.encode_text(asked, options.max_sequence_length)
        variables = self._variables(options, own_adapters)
        noisy = jnp.asarray(noise, jnp.float32)
        if start is not None:
            noisy = mix(start, noisy, schedule[0])
        listener = None if on_step is None else lambda done: on_step(done, len(schedule))
        run = denoise_streamed if self.weights == "stream" else denoise
        with reporting(listener), self._on_mesh():
            latents, evaluated = run(
                model,
                variables,
                noisy[:, num_condition:],
                condition,
                text,
                mask,
                jnp.asarray(schedule, jnp.float32),
                jnp.float32(options.scale),
                use_cache=options.use_cache,
                guide_condition=options.guide_condition,
                report=on_step is not None,
                step_cache=jnp.float32(options.step_cache) if options.step_cache else None,
            )
        if evaluated is not None:
            self.skipped_steps.append(tuple(map(int, np.flatnonzero(~np.asarray(evaluated)))))
        return latents

    @property
    def _blocks(self) -> BlockSparseConfig:
        return self.dit_config.bsa_params or BlockSparseConfig()

    def _model(self, sparse: bool) -> LongCatVideo:
        cfg = dataclasses.replace(self.dit_config, enable_bsa=sparse, bsa_params=self._blocks)
        return LongCatVideo(cfg, context=self.context)

    def content(self, options: SamplingOptions) -> dict[str, Any]:
        """What a result depends on besides its settings, by content: the checkpoint and the adapters asked for."""
        adapters = [[store.adapter_identity(self.folder, name), weight] for name, weight in options.adapters]
        found = store.content_identity(self.folder)
        return {**{f"checkpoint.{name}": content for name, content in found.items()}, "adapters": adapters}

    def check_adapters(self, options: SamplingOptions, *, refining: bool = False, streaming: bool = False) -> None:
        """Raises ValueError unless the adapters that a task will ask for are there and fit; reads no weights."""
        options = self._with_stream_adapter(options) if streaming else options
        for name, _ in self._wanted_adapters(options, ((REFINEMENT_ADAPTER, 1.0),) if refining else ()):
            store.check_adapter(self.folder, name, self.dit_config)

    def _with_stream_adapter(self, options: SamplingOptions) -> SamplingOptions:
        """Options that name the adapters of a stream: `stream_lora` is that of a distilled one, where there is one."""
        components = self.provenance["components"]
        folded = [record["name"] for record in components["dit"]["folded"]]
        if not options.distilled or DISTILLED_ADAPTER in folded or STREAM_ADAPTER not in components.get("lora", {}):
            return options
        adapters = {STREAM_ADAPTER: 1.0, **dict(options.adapters)}
        return dataclasses.replace(options, distilled=False, adapters=tuple(adapters.items()))

    def _wanted_adapters(
        self, options: SamplingOptions, own_adapters: tuple[tuple[str, float], ...]
    ) -> tuple[tuple[str, float], ...]:
        """The task's own, unless the conversion folded them in, and those asked for."""
        own_adapters += ((DISTILLED_ADAPTER, 1.0),) if options.distilled else ()
        folded = [record["name"] for record in self.provenance["components"]["dit"]["folded"]]
        own = {name: multiplier for name, multiplier in own_adapters if name not in folded}
        return tuple({**own, **dict(options.adapters)}.items())

    def _variables(self, options: SamplingOptions, own_adapters: tuple[tuple[str, float], ...]) -> Params:
        """The transformer's parameters with the adapters asked for; the last ones asked for are kept."""
        wanted = self._wanted_adapters(options, own_adapters)
        if not wanted:
            return {"params": self.params("dit")}
        if self._active is None or self._active[0] != wanted:
            self._active = None  # free the last before making the next
            adapters = [
                (store.load_adapter(self.folder, name, self.dit_config, sharding=self._sharding("dit")), scale)
                for name, scale in wanted
            ]
            if self.fold_adapters:
                variables = {"params": fold(self.params("dit"), adapters)}
            else:
                variables = {"params": self.params("dit"), "adapters": combine(adapters)}
            self._active = wanted, variables
        return self._active[1]

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, ...]:
        """T H W C of a video's latents."""
        space, time = self.vae.cfg.spatial_factor, self.vae.cfg.temporal_factor
        return 1 + (num_frames - 1) // time, height // space, width // space, self.vae.cfg.z_dim

    def _size(self, frames: Frames, size: tuple[int, int] | None, resolution: str, *, sparse: bool) -> tuple[int, int]:
        """Height and width to work at."""
        if frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
            raise ValueError(f"frames must be T H W 3 (an image H W 3), got {frames.shape}")
        granularity = self.granularity(sparse)
        if size is None:
            return nearest_bucket(frames.shape[1], frames.shape[2], resolution, granularity)
        check_size(*size, granularity)
        return size

    def granularity(self, sparse: bool) -> int:
        """Pixels that heights and widths are multiples of: a patch of latents, or a block of patches."""
        side = max(*self._blocks.chunk_3d_shape_q[1:], *self._blocks.chunk_3d_shape_k[1:]) if sparse else 1
        return self.vae.cfg.spatial_factor * self.dit_config.patch_size[1] * side

    def _frame_blocks(self) -> int:
        return max(self._blocks.chunk_3d_shape_q[0], self._blocks.chunk_3d_shape_k[0])


def refinement_padding(num_frames: int, num_cond_frames: int, block: int, factor: int = 4) -> tuple[int, int]:
    """Frames to repeat in front and behind, so that condition and noisy latents are each whole blocks of frames.

    The first latent of a clip stands for one frame, every other for `factor`: n latents decode to factor (n - 1) + 1
    frames. That first latent belongs to the condition if there is one, and to the noisy frames if not.
    """

    def padded(count: int, leads: bool) -> int:
        """The least number of frames, at least `count`, whose latents are whole blocks."""
        single = 1 if leads else 0
        latents = single + math.ceil((count - single) / factor)
        return (math.ceil(latents / block) * block - single) * factor + single

    noisy = num_frames - num_cond_frames
    front = padded(num_cond_frames, True) - num_cond_frames if num_cond_frames else 0
    return front, padded(noisy, not num_cond_frames) - noisy


def _as_float(frames: np.ndarray | Array) -> Array:
    if frames.dtype != np.uint8 and not jnp.issubdtype(frames.dtype, jnp.floating):
        raise ValueError(f"frames must be uint8, or floats in [0, 1]; got {frames.dtype}")
    return jnp.asarray(frames, jnp.float32) / 255 if frames.dtype == np.uint8 else jnp.asarray(frames, jnp.float32)


def _fit(frames_THWC: Frames, height: int, width: int, fit: str) -> np.ndarray:
    """Frames of the wanted size, uint8 unless they had it already."""
    check_choice("fit", fit, ("crop", "stretch"))
    if frames_THWC.shape[1:3] == (height, width):
        return frames_THWC
    return resize_and_crop(to_uint8(frames_THWC), height, width, stretch=fit == "stretch")
