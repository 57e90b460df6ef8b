"""`--memory GB`: which of the ways to hold weights suits a GPU, by what the planner finds for the released model.

The planner compiles a task's programs, which needs XLA's compiler for GPUs. Where videos are made there may be none, so
its results are summarized here as bytes per token and per pixel (docs/scaling.md has them; tests compare).
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from lcv_jax.checkpoint.streamed import layer_bytes
from lcv_jax.pipeline import Pipeline

RESERVE = 0.08
"""Share of a GPU's memory that is left for what XLA does not count."""
WIDTHS_PER_TOKEN = 9
"""Activations of one sample, in numbers of hidden_size per token."""
WIDTHS_PER_WAITING_TOKEN = 4
"""Of a sample that waits while another runs through a streamed layer."""
DECODER_BYTES_PER_PIXEL = 11_500
FRAME_BYTES_PER_PIXEL = 30
TILED_BYTES = 1_200_000_000
VAE_BYTES = 260_000_000
ADAPTER_SHARE = 0.14
"""Of the layers' bytes, for an adapter of the released rank that is added as the model runs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holding:
    """One way to hold the weights; the names are the options'."""

    weights: str = "resident"
    keep_text_encoder: str = "host"
    vae_tiles: bool = False

    def __str__(self) -> str:
        tiles = " --vae-tiles" if self.vae_tiles else ""
        return f"--weights {self.weights} --keep-text-encoder {self.keep_text_encoder}{tiles}"


HOLDINGS = (
    Holding(keep_text_encoder="device"),
    Holding(),
    Holding(vae_tiles=True),
    Holding(weights="stream"),
    Holding(weights="stream", vae_tiles=True),
)
"""From the fastest to the smallest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """The sizes of one sampling."""

    height: int
    width: int
    frames: int
    samples: int
    """Both halves of guidance counted."""
    condition_frames: int = 0
    cached: bool = False
    encodes: bool = False
    """Whether frames are encoded first, so that the autoencoder is loaded."""
    adapters: int = 0
    """Those that the conversion did not fold in."""

    def tokens(self, frames: int) -> int:
        """Of so many frames, for patches of 16 x 16 pixels and 4 frames."""
        return math.ceil((frames + 3) / 4) * (self.height // 16) * (self.width // 16)


USUAL = Work(height=480, width=832, frames=93, samples=2)


def works_of(task: Any, pipeline: Pipeline) -> list[Work]:
    """What a task samples; sizes that depend on an image or clip are taken to be the bucket's usual ones."""
    options, default = task.options, {"480p": (480, 832), "720p": (704, 1280)}
    height, width = getattr(task, "size", None) or default[getattr(task, "resolution", "480p")]
    adapters = len(pipeline._wanted_adapters(options, ()))
    if hasattr(task, "segment_frames"):
        height, width = task.size or default["720p"]
        frames = task.segment_frames * (1 if task.spatial_only else 2)
        return [
            Work(
                height=height,
                width=width,
                frames=frames,
                samples=1,
                encodes=True,
                adapters=adapters + _refinement(pipeline),
            )
        ]
    condition = getattr(task, "num_cond_frames", 1 if getattr(task, "image", None) else 0)
    frames, prompts = task.num_frames or 93, [task.prompt] if isinstance(task.prompt, str) else task.prompt
    at_once = 1 if hasattr(task, "refine_size") or hasattr(task, "window") else len(prompts)
    if hasattr(task, "window"):
        condition, frames = 4 * task.window.size - 3, 4 * (task.window.size + task.chunk) - 3
    work = Work(
        height=getattr(task, "height", height), width=getattr(task, "width", width), frames=frames,
        samples=at_once * (2 if options.scale > 1 else 1), condition_frames=condition,
        cached=bool(condition) and options.use_cache, encodes=bool(condition), adapters=adapters,
    )  # fmt: skip
    if not getattr(task, "refine", False):
        return [work]
    height, width = task.refine_size or default["720p"]
    refined = Work(
        height=height, width=width, frames=2 * frames, samples=1, encodes=True, adapters=_refinement(pipeline)
    )
    return [work, refined]


def _refinement(pipeline: Pipeline) -> int:
    folded = [record["name"] for record in pipeline.provenance["components"]["dit"]["folded"]]
    return 0 if "refinement_lora" in folded else 1


def needed_bytes(pipeline: Pipeline, work: Work, holding: Holding) -> int:
    """Of a GPU, at the peak."""
    cfg, text = pipeline.dit_config, pipeline.text_encoder.cfg
    layers, text_layers = (layer_bytes(pipeline.folder, name, pipeline.dtype) for name in ("dit", "text_encoder"))
    itemsize = 4 if pipeline.dtype == "float32" or _stored_itemsize(pipeline) == 4 else 2
    width, embedding = cfg.hidden_size * itemsize, text.vocab_size * text.d_model * itemsize
    tokens = work.tokens(work.frames)
    if holding.weights == "stream":
        held, text_held = 2 * layers // cfg.depth, embedding + 3 * text_layers // text.num_layers
        waiting = (work.samples - 1) * WIDTHS_PER_WAITING_TOKEN
        activations = tokens * width * (WIDTHS_PER_TOKEN + waiting)
        resting = 0
    else:
        held, text_held, resting = layers, embedding + text_layers, layers
        activations = tokens * width * WIDTHS_PER_TOKEN * work.samples
    cache = 2 * cfg.depth * work.tokens(work.condition_frames) * width if work.cached else 0
    as_it_runs = work.adapters * int(ADAPTER_SHARE * layers)
    if work.adapters and pipeline.fold_adapters and holding.weights == "resident":
        as_it_runs = layers  # a folded copy
    kept = text_held if holding.keep_text_encoder == "device" else 0
    stages = (
        text_held,
        kept + held + activations + cache + as_it_runs + (VAE_BYTES if work.encodes else 0),
        kept + resting + as_it_runs + frames_bytes(work, tiles=holding.vae_tiles),
    )
    return max(stages)


def frames_bytes(work: Work, *, tiles: bool) -> int:
    """Of the autoencoder and its frames."""
    pixels = work.height * work.width
    decoder = TILED_BYTES if tiles else DECODER_BYTES_PER_PIXEL * pixels
    return VAE_BYTES + decoder + FRAME_BYTES_PER_PIXEL * pixels * work.frames


def _stored_itemsize(pipeline: Pipeline) -> int:
    stored = pipeline.provenance["components"]["dit"]["dtypes"]
    return max(np.dtype(name).itemsize for name in stored if not (len(stored) > 1 and name == "float32"))


def device_bytes(memory: str) -> int:
    """What `--memory` allows: so many GB less the reserve, or for "auto" what JAX may take of the device.

    Raises:
        ValueError: the device does not say.
    """
    if memory != "auto":
        return int(float(memory) * 1e9 * (1 - RESERVE))
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        raise ValueError(
            f"--memory auto: {jax.devices()[0].device_kind} does not report its memory; give a number of GB"
        )
    return int(stats["bytes_limit"])


def choose(pipeline: Pipeline, works: list[Work], memory: str) -> tuple[Holding, int]:
    """The fastest way that fits, and what it needs.

    Raises:
        ValueError: none fits; the smallest need is named.
    """
    usable = device_bytes(memory)
    needs = [(max(needed_bytes(pipeline, work, holding) for work in works), holding) for holding in HOLDINGS]
    for needed, holding in needs:
        if needed <= usable:
            return holding, needed
    needed, holding = min(needs, key=lambda each: each[0])
    advice = "fewer or smaller frames, --no-use-cache, or adapters folded in by the conversion"
    raise ValueError(
        f"--memory {memory}: {usable / 1e9:.1f} GB are usable, and the least that this task needs is "
        f"{needed / 1e9:.1f} GB ({holding}): use {advice}"
    )
