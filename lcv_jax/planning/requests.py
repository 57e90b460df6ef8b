"""Which programs a task runs, and with arrays of what shapes.

The pipeline itself says so: it runs on shapes alone, with recorders in place of compiled programs. So sizes, buckets,
padding, schedules, guidance, caches and adapters are those of generation, and errors are too.
"""

import contextlib
import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax import pipeline as pipelines
from lcv_jax.array_types import Array, Params
from lcv_jax.bounds import Bounds, Count, FrameCount, NoiseLevel, Pixels, Whole, check_fields
from lcv_jax.checkpoint import store
from lcv_jax.checkpoint.streamed import STACKS
from lcv_jax.config import BlockSparseConfig, DiTConfig, SchedulerConfig, UMT5Config, VAEConfig
from lcv_jax.diffusion.step_cache import FIRST_STEPS, LAST_STEPS
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.models.flops import ForwardFlops, forward_flops
from lcv_jax.models.quantize import quantize
from lcv_jax.models.streamed import packed_shapes, replace_stack
from lcv_jax.models.umt5 import UMT5Encoder
from lcv_jax.models.vae import WanVAE
from lcv_jax.pipeline import Pipeline
from lcv_jax.sampling import denoise as programs
from lcv_jax.sampling import streaming
from lcv_jax.sampling.options import SamplingOptions
from lcv_jax.sampling.streaming import StreamState, StreamWindow

ADAPTER_RANK = 128
"""Of the released adapters (report, section 4)."""
FOLDED = "folded copy"
"""The transformer's kernels once more, with adapters folded in."""
ADAPTERS = "adapters"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Networks:
    """What is planned for. Defaults are the published configs of the 13.6B model."""

    dit: DiTConfig = DiTConfig(bsa_params=BlockSparseConfig())  # noqa: RUF009
    vae: VAEConfig = VAEConfig(latents_mean=(0.0,) * 16, latents_std=(1.0,) * 16)  # noqa: RUF009
    text_encoder: UMT5Config = UMT5Config()  # noqa: RUF009
    scheduler: SchedulerConfig = SchedulerConfig()  # noqa: RUF009
    folded: tuple[str, ...] = ()
    """Adapters that the conversion folded in."""
    quantized: bool = False
    """Whether the conversion quantized the transformer."""

    def __post_init__(self) -> None:
        check_fields(self)


def networks_of(folder: Path) -> Networks:
    """Those of a converted folder, whose weights are not read.

    Raises:
        ValueError: it is no converted folder.
    """
    provenance = store.read_provenance(folder)
    return Networks(
        dit=store.load_config(folder, "dit"),
        vae=store.load_config(folder, "vae"),
        text_encoder=store.load_config(folder, "text_encoder"),
        scheduler=store.load_scheduler_config(folder),
        folded=tuple(record["name"] for record in provenance["components"]["dit"]["folded"]),
        quantized=store.is_quantized(folder),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """What the sampling loop does, for the formulas."""

    steps: int
    """Those that surely evaluate the transformer: with a step cache not all."""
    batch: int
    """Samples of a forward pass, both halves of guidance counted."""
    flops: ForwardFlops
    """Of the whole loop."""
    cache_bytes: int
    """Of the condition's keys and values; those of a stream are among its arguments."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """One compiled program and what it is called with."""

    name: str
    function: Any
    """Jitted."""
    arguments: tuple[Any, ...]
    """Static ones, and trees of ShapeDtypeStructs."""
    options: dict[str, Any]
    times: int
    """How often it runs."""
    own: tuple[str, ...]
    """Components whose parameters are among the arguments."""
    resident: dict[str, Params]
    """Parameters in memory while it runs, by component; `own` are among them."""
    in_host: dict[str, Params] = dataclasses.field(default_factory=dict)
    """Parameters that are kept in the host's memory whole; streamed layers are among `resident`."""
    sampling: Sampling | None = None
    rows_split: bool = False
    """Over a mesh each device computes its rows of the frames."""
    carried: tuple[int, ...] = ()
    """Which arguments are caches that the program before it left, not parameters."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextToVideo:
    """Plan videos of prompts."""

    height: Pixels = 480
    """Pixels, a multiple of 16."""
    width: Pixels = 832
    """Pixels, a multiple of 16."""
    num_frames: FrameCount = 93
    """A multiple of 4 plus 1."""
    num_prompts: Annotated[int, Bounds(least=1, most=2**16)] = 1
    """Videos made at once."""

    def __post_init__(self) -> None:
        check_fields(self)

    def run(self, pipeline: Pipeline, options: dict[str, Any]) -> None:
        """What generation does."""
        size: dict[str, Any] = {"height": self.height, "width": self.width, "num_frames": self.num_frames}
        pipeline.text_to_video(_prompts(self.num_prompts), **size, **options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageToVideo:
    """Plan videos that begin with an image."""

    resolution: Literal["480p", "720p"] = "480p"
    """The aspect-ratio bucket nearest to the image's is taken from this table."""
    image_size: tuple[Pixels, Pixels] = (480, 832)
    """Height and width of the image."""
    size: tuple[Pixels, Pixels] | None = None
    """Height and width of the video, multiples of 16. None: the bucket nearest to the image."""
    num_frames: FrameCount = 93
    """A multiple of 4 plus 1, the image included."""
    num_prompts: Annotated[int, Bounds(least=1, most=2**16)] = 1
    """Videos made at once from the same image."""

    def __post_init__(self) -> None:
        check_fields(self)

    def run(self, pipeline: Pipeline, options: dict[str, Any]) -> None:
        """What generation does."""
        given: dict[str, Any] = {"size": self.size, "resolution": self.resolution, "num_frames": self.num_frames}
        pipeline.image_to_video(_frames(1, self.image_size)[0], _prompts(self.num_prompts), **given, **options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContinueVideo:
    """Plan videos that go on from a clip; also a later segment of a long or interactive video."""

    num_cond_frames: FrameCount = 13
    """Last frames of the clip to go on from, a multiple of 4 plus 1."""
    resolution: Literal["480p", "720p"] = "480p"
    """The aspect-ratio bucket nearest to the clip's is taken from this table."""
    video_size: tuple[Pixels, Pixels] = (480, 832)
    """Height and width of the clip."""
    size: tuple[Pixels, Pixels] | None = None
    """Height and width of the video, multiples of 16. None: the bucket nearest to the clip."""
    num_frames: FrameCount = 93
    """A multiple of 4 plus 1, the given frames included."""
    num_prompts: Annotated[int, Bounds(least=1, most=2**16)] = 1
    """Videos made at once from the same clip."""

    def __post_init__(self) -> None:
        check_fields(self)

    def run(self, pipeline: Pipeline, options: dict[str, Any]) -> None:
        """What generation does."""
        given: dict[str, Any] = {"size": self.size, "resolution": self.resolution, "num_frames": self.num_frames}
        given["num_cond_frames"] = self.num_cond_frames
        clip = _frames(max(1, self.num_cond_frames), self.video_size)
        pipeline.continue_video(clip, _prompts(self.num_prompts), **given, **options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refine:
    """Plan the refinement of a segment to 720p."""

    video_size: tuple[Pixels, Pixels] = (480, 832)
    """Height and width of the video."""
    spatial_only: bool = False
    """Keep the frame rate."""
    size: tuple[Pixels, Pixels] | None = None
    """Height and width of the result, multiples of 64. None: the 720p bucket nearest to the video's aspect ratio."""
    t_thresh: NoiseLevel | None = None
    """Noise level to start from. None: the checkpoint's, 0.5 of the released one."""
    segment_frames: FrameCount = 93
    """Frames refined at once."""
    overlap: FrameCount = 13
    """Frames of a segment that the next one sees again."""
    later_segment: bool = False
    """Plan one that goes on from the segment before it, not the first."""

    def __post_init__(self) -> None:
        check_fields(self)

    def run(self, pipeline: Pipeline, options: dict[str, Any]) -> None:
        """What generation does."""
        known = self.overlap * (1 if self.spatial_only else 2) if self.later_segment else 0
        given: dict[str, Any] = {"size": self.size, "spatial_only": self.spatial_only, "t_thresh": self.t_thresh}
        condition = _frames(known, self.size or self.video_size) if known else None
        video = _frames(self.segment_frames, self.video_size)
        pipeline.refine(video, condition_video=condition, num_cond_frames=known, **given, **options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamVideo:
    """Plan a chunk of a stream whose cache is full, as are all but the first ones."""

    height: Pixels = 480
    """Pixels, a multiple of 16."""
    width: Pixels = 832
    """Pixels, a multiple of 16."""
    chunk: Annotated[int, Bounds(least=1, most=4)] = 3
    """Latent frames, four frames of video each, that are denoised together."""
    sink: Whole = 3
    """First latent frames of the stream, which every chunk sees."""
    ring: Count = 18
    """Last latent frames that a chunk sees."""

    def __post_init__(self) -> None:
        check_fields(self)

    def run(self, pipeline: Pipeline, options: dict[str, Any]) -> None:
        """What generation does."""
        window = StreamWindow(chunk=self.chunk, sink=self.sink, ring=self.ring)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of checkpoints that were not trained for it
            next(pipeline.stream("", height=self.height, width=self.width, window=window, **options))


Request = TextToVideo | ImageToVideo | ContinueVideo | Refine | StreamVideo
REQUESTS: dict[str, type] = {
    "text-to-video": TextToVideo,
    "image-to-video": ImageToVideo,
    "continue-video": ContinueVideo,
    "refine": Refine,
    "stream": StreamVideo,
}


def _prompts(count: int) -> list[str]:
    """Different ones, as equal ones are encoded once."""
    return [str(number) for number in range(count)]


def _frames(count: int, size: tuple[int, int]) -> np.ndarray:
    """A clip that takes no memory."""
    return np.broadcast_to(np.uint8(0), (count, *size, 3))


def programs_of(
    request: Request, options: SamplingOptions, networks: Networks | None = None, **settings: Any
) -> list[Program]:
    """The programs that generation runs for a request, in their order.

    Args:
        request: what is made.
        options: how it is sampled.
        networks: None: the 13.6B model's.
        settings: fields of `Pipeline`: dtype ("float32" or "bfloat16", which is the default), fold_adapters, vae_tiles,
            keep_text_encoder, context.

    Raises:
        ValueError: what generation would refuse too.
    """
    recording = RecordingPipeline(networks or Networks(), **{"dtype": "bfloat16", **settings})
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    with recording.in_place():
        jax.eval_shape(lambda: request.run(recording, fields))
    return recording.programs


class RecordingPipeline(Pipeline):
    """A pipeline that computes nothing and writes down which programs it would have run."""

    def __init__(self, networks: Networks, **settings: Any):
        """For networks of which only configs are known; settings are fields of `Pipeline`."""
        self.networks = networks
        self.programs: list[Program] = []
        super().__init__(folder=Path(), **settings)

    def __post_init__(self) -> None:
        """As the pipeline's, without a folder."""
        self.provenance = {"components": {"dit": {"folded": [{"name": name} for name in self.networks.folded]}}}
        self.dit_config = self.networks.dit
        self.vae = WanVAE(self.networks.vae)
        self.text_encoder = UMT5Encoder(self.networks.text_encoder)
        self.shift, self.t_thresh = self.networks.scheduler.shift, self.networks.scheduler.t_thresh
        self.fold_adapters = self.fold_adapters and not self.networks.quantized and self.weights == "resident"
        self._params: dict[str, Params] = {}
        self._text_encoder_on_host = None
        self._active = None

    def content(self, options: SamplingOptions) -> dict[str, Any]:
        """Nothing is made that would have to say what it was made with."""
        return {}

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, what the pipeline calls are recorders."""
        recorders: dict[str, Callable] = {
            "denoise": self._denoise,
            "denoise_streamed": self._denoise,
            "encode_frames": self._encode_frames,
            "upsample_clip": self._upsample_clip,
            "start_stream": self._start_stream,
            "next_latents": self._next_latents,
            "next_latents_streamed": self._next_latents,
            "decode_chunk": self._decode_chunk,
            "_as_float": lambda frames: jnp.zeros(frames.shape, jnp.float32),
            "_fit": lambda frames, height, width, fit: np.broadcast_to(np.uint8(0), (len(frames), height, width, 3)),
        }
        kept = {name: getattr(pipelines, name) for name in recorders}
        try:
            for name, recorder in recorders.items():
                setattr(pipelines, name, recorder)
            yield
        finally:
            for name, function in kept.items():
                setattr(pipelines, name, function)

    def params(self, network: str) -> Params:
        """Shapes of the parameters of "dit", "vae" or "text_encoder"."""
        if network not in self._params:
            shapes = parameter_shapes(self.networks, network, jnp.dtype(self.dtype))
            if self.weights == "stream" and network in STACKS:
                shapes = replace_stack(shapes, STACKS[network], packed_shapes)
            self._params[network] = shapes
            if network == "text_encoder" and self.keep_text_encoder == "host":
                self._text_encoder_on_host = shapes
        return self._params[network]

    def encode_text(self, prompts: Sequence[str], max_sequence_length: int) -> tuple[Array, Array]:
        """What the text encoder gives, of the shape that tokenizing gives."""
        tokens = jnp.zeros((1, max_sequence_length), jnp.int32)
        arguments = self.text_encoder, self.params("text_encoder"), tokens, tokens
        encode = programs.encode_text_streamed if self.weights == "stream" else programs.encode_text
        self._record("encode text", encode, arguments, "text_encoder", times=len(set(prompts)))
        self._release_text_encoder()
        shape = len(prompts), max_sequence_length
        return jnp.zeros((*shape, self.text_encoder.cfg.d_model), self.dtype), jnp.zeros(shape, bool)

    def _finish(self, latents_BTHWC: Array, output: str) -> np.ndarray:
        method = "tiled_decode" if self.vae_tiles else "decode"
        params, (batch, T, H, W, _), cfg = self.params("vae"), latents_BTHWC.shape, self.vae.cfg
        one = (self.vae, params, latents_BTHWC[:1], method)
        self._record("decode", programs.decode_latents, one, "vae", times=batch, rows_split=True)
        frames = 1 + (T - 1) * cfg.temporal_factor
        return np.broadcast_to(np.float32(0), (batch, frames, H * cfg.spatial_factor, W * cfg.spatial_factor, 3))

    def _variables(self, options: SamplingOptions, own_adapters: tuple[tuple[str, float], ...]) -> Params:
        params, wanted = self.params("dit"), self._wanted_adapters(options, own_adapters)
        if not wanted:
            return {"params": params}
        if self.fold_adapters:
            self._params[FOLDED] = adapted_kernels(params)
            return {"params": params}
        whole = parameter_shapes(self.networks, "dit", jnp.dtype(self.dtype))
        self._params[ADAPTERS] = adapter_shapes(whole, ADAPTER_RANK * len(wanted))
        return {"params": params, "adapters": self._params[ADAPTERS]}

    def _denoise(
        self, model: LongCatVideo, variables: Params, noise_BTHWC: Any, *others: Any, **options: Any
    ) -> tuple[Array, None]:
        condition = others[0]
        known = sampling(self.dit_config, model, variables, noise_BTHWC, *others, **options)
        arguments = (model, variables, noise_BTHWC, *others)
        own = ("dit", ADAPTERS) if "adapters" in variables else ("dit",)
        run = programs.denoise_streamed if self.weights == "stream" else programs.denoise
        self._record("denoise", run, arguments, *own, options=options, sampling=known)
        frames = noise_BTHWC.shape[1] + (0 if condition is None else condition.shape[1])
        latents = jnp.zeros((noise_BTHWC.shape[0], frames, *noise_BTHWC.shape[2:]), jnp.float32)
        return latents, None

    def _encode_frames(self, vae: WanVAE, params: Params, video_BTHWC: Any, key: Any, method: str) -> Array:
        arguments = (vae, params, video_BTHWC, key, method)
        self._record("encode", programs.encode_frames, arguments, "vae", rows_split=True)
        B, T, H, W, _ = video_BTHWC.shape
        cfg = vae.cfg
        grid = 1 + (T - 1) // cfg.temporal_factor, H // cfg.spatial_factor, W // cfg.spatial_factor
        return jnp.zeros((B, *grid, cfg.z_dim), jnp.float32)

    def _start_stream(self, cfg: DiTConfig, window: StreamWindow, height: int, width: int, dtype: Any) -> StreamState:
        """A stream whose cache is full."""
        begun = streaming.start_stream(cfg, window, height, width, dtype)
        first = jax.ShapeDtypeStruct((1, 1, height, width, self.vae.cfg.z_dim), jnp.float32)
        decode = functools.partial(streaming.decode_next, self.vae)
        _, decoder = jax.eval_shape(decode, self.params("vae"), first, None)
        with jax.ensure_compile_time_eval():
            num_frames = jnp.int32(window.size)
        return StreamState(num_frames, begun.cache, decoder)

    def _next_latents(
        self,
        model: LongCatVideo,
        variables: Params,
        cache: Params,
        num_frames: Any,
        noise_BTHWC: Any,
        text_GLD: Any,
        *others: Any,
        window: StreamWindow,
        **options: Any,
    ) -> tuple[Array, Params]:
        own = ("dit", ADAPTERS) if "adapters" in variables else ("dit",)
        run = streaming.next_latents_streamed if self.weights == "stream" else streaming.next_latents
        schedule = others[1]
        known = chunk_sampling(model, variables, noise_BTHWC, text_GLD, schedule, window)
        arguments = (model, variables, cache, num_frames, noise_BTHWC, text_GLD, *others)
        options = {"window": window, **options}
        self._record("denoise", run, arguments, *own, options=options, sampling=known, carried=(2,))
        return jnp.zeros(noise_BTHWC.shape, jnp.float32), cache

    def _decode_chunk(self, vae: WanVAE, params: Params, latents_BTHWC: Any, cache: Any) -> tuple[np.ndarray, Any]:
        arguments = (vae, params, latents_BTHWC, cache)
        self._record("decode", streaming.decode_next, arguments, "vae", rows_split=True, carried=(3,))
        _, T, H, W, _ = latents_BTHWC.shape
        size = T * vae.cfg.temporal_factor, H * vae.cfg.spatial_factor, W * vae.cfg.spatial_factor
        return np.broadcast_to(np.float32(0), (*size, 3)), cache

    def _upsample_clip(self, video_THWC: Any, num_frames: int, height: int, width: int) -> Array:
        self._record("upsample", programs.upsample_clip, (video_THWC, num_frames, height, width))
        return jnp.zeros((num_frames, height, width, video_THWC.shape[-1]), jnp.float32)

    def _record(
        self,
        name: str,
        function: Any,
        arguments: tuple[Any, ...],
        *own: str,
        times: int = 1,
        options: dict[str, Any] | None = None,
        sampling: Sampling | None = None,
        rows_split: bool = False,
        carried: tuple[int, ...] = (),
    ) -> None:
        program = Program(
            name=name,
            function=function,
            arguments=jax.tree.map(_shape, arguments),
            options=jax.tree.map(_shape, options or {}),
            times=times,
            own=own,
            resident=dict(self._params),
            in_host={} if self._text_encoder_on_host is None else {"text_encoder": self._text_encoder_on_host},
            sampling=sampling,
            rows_split=rows_split,
            carried=carried,
        )
        self.programs.append(program)


def _shape(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if hasattr(leaf, "shape") else leaf


@functools.lru_cache
def parameter_shapes(networks: Networks, network: str, dtype: Any) -> Params:
    """ShapeDtypeStructs of a network's parameters."""
    if network == "dit":
        cfg = dataclasses.replace(networks.dit, enable_bsa=False)
        _, h, w = cfg.patch_size
        inputs: tuple[Any, ...] = (
            jnp.zeros((1, 1, h, w, cfg.in_channels)),
            jnp.zeros((1, 1)),
            jnp.zeros((1, 2, cfg.caption_channels)),
            jnp.ones((1, 2), bool),
        )
        model: Any = LongCatVideo(cfg)
    elif network == "vae":
        model, side = WanVAE(networks.vae), networks.vae.spatial_factor
        inputs = (jnp.zeros((1, 1, side, side, 3)),)
    else:
        model, inputs = UMT5Encoder(networks.text_encoder), (jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), jnp.int32))
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), dict(params))
    return jax.eval_shape(quantize, shapes) if network == "dit" and networks.quantized else shapes


def adapted_kernels(params: Params) -> Params:
    """The kernels that adapters are folded into: of every linear layer of attention and feed-forward."""
    modules = {name: params["blocks"][name] for name in ("attn", "cross_attn", "ffn")}
    return {"blocks": {name: _kernels(layers) for name, layers in modules.items()}}


def _kernels(layers: Params) -> Params:
    return {name: {"kernel": layer["kernel"]} for name, layer in layers.items() if "kernel" in layer}


def adapter_shapes(params: Params, rank: int) -> Params:
    """The "adapters" collection of adapters for all these layers, their ranks side by side."""
    tree: Params = {}
    for module, layers in adapted_kernels(params)["blocks"].items():
        for name, layer in layers.items():
            slices = {"qkv": 3, "kv_linear": 2}.get(name, 1)
            depth, width, out = layer["kernel"].shape
            kind = params["x_embedder"]["proj"]["kernel"].dtype
            # `up` comes in float32 from scaling.
            tree.setdefault(module, {})[name] = {
                "down": jax.ShapeDtypeStruct((depth, width, slices, rank), kind),
                "up": jax.ShapeDtypeStruct((depth, slices, rank, out // slices), jnp.float32),
            }
    return {"blocks": tree}


def sampling(
    cfg: DiTConfig,
    model: LongCatVideo,
    variables: Params,
    noise_BTHWC: Any,
    condition_bTHWC: Any,
    text_GLD: Any,
    text_mask_GL: Any,
    schedule: Any,
    guidance_scale: Any,
    *,
    use_cache: bool = True,
    guide_condition: bool = False,
    report: bool = False,
    step_cache: Any = None,
) -> Sampling:
    """What a call of `denoise` amounts to; its arguments, as they are or as shapes."""
    (B, T, H, W, _), (G, L, _) = noise_BTHWC.shape, text_GLD.shape
    rows, columns = H // cfg.patch_size[1], W // cfg.patch_size[2]
    steps = schedule.shape[0] if step_cache is None else FIRST_STEPS + LAST_STEPS
    condition = 0 if condition_bTHWC is None else condition_bTHWC.shape[1]
    cached = condition > 0 and use_cache and not (guide_condition and G > B)
    rank = _rank(variables.get("adapters", {}))
    forward = functools.partial(forward_flops, model.cfg, adapter_rank=rank)
    if cached:
        flops = forward(grid=(T, rows, columns), cached=condition, text_tokens=L) * (G * steps)
        once = forward(grid=(condition, rows, columns), num_condition=condition, text_tokens=0)
        flops += once * condition_bTHWC.shape[0]
    else:
        flops = forward(grid=(condition + T, rows, columns), num_condition=condition, text_tokens=L) * (G * steps)
    width = variables["params"]["x_embedder"]["proj"]["kernel"].dtype.itemsize
    tokens = condition * rows * columns * (condition_bTHWC.shape[0] if cached else 0)
    cache_bytes = 2 * cfg.depth * tokens * cfg.hidden_size * width
    return Sampling(steps=steps, batch=G, flops=flops, cache_bytes=cache_bytes)


def chunk_sampling(
    model: LongCatVideo, variables: Params, noise_BTHWC: Any, text_GLD: Any, schedule: Any, window: StreamWindow
) -> Sampling:
    """What a call of `next_latents` with a full cache amounts to: the steps, and once more to keep keys and values."""
    (B, T, H, W, _), (G, L, _), cfg = noise_BTHWC.shape, text_GLD.shape, model.cfg
    grid = T, H // cfg.patch_size[1], W // cfg.patch_size[2]
    rank, steps = _rank(variables.get("adapters", {})), schedule.shape[0]
    forward = functools.partial(forward_flops, cfg, adapter_rank=rank, grid=grid, cached=window.size)
    flops = forward(text_tokens=L) * (G * steps) + forward(text_tokens=0) * B
    return Sampling(steps=steps, batch=G, flops=flops, cache_bytes=0)


def _rank(adapters: Params) -> int:
    ranks = [leaf.shape[-1] for path, leaf in jax.tree_util.tree_leaves_with_path(adapters) if path[-1].key == "down"]
    return max(ranks, default=0)


def parameter_count(params: Params) -> int:
    """Of a tree of shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
