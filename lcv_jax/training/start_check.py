"""What can be wrong with a run, found from its config and small files: before weights load and anything is written."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from lcv_jax.checkpoint import store
from lcv_jax.data.config import DataConfig, Size, as_text
from lcv_jax.data.prompts import PromptsConfig
from lcv_jax.evaluation.packages import evaluation_package
from lcv_jax.models.dit import sparse_order
from lcv_jax.objectives.autoencoder import Autoencoder
from lcv_jax.objectives.self_forcing import SelfForcing
from lcv_jax.pipeline import Pipeline
from lcv_jax.sampling.options import SamplingOptions, check_size
from lcv_jax.sampling.stream import trained_causally
from lcv_jax.training.base import Base
from lcv_jax.training.config import TrainConfig
from lcv_jax.training.evaluation import chosen_items


def check_start(cfg: TrainConfig, base: Base) -> None:
    """Checks a config against the checkpoint that it starts from.

    Raises:
        OSError: there is no such suite. ImportError: what measures it is not installed.
        ValueError: a quantized checkpoint, an adapter that is not there or does not fit, samples that the networks
            cannot make, a suite without prompts, or a tokenizer and a text encoder that do not belong together.
    """
    if not isinstance(base, Pipeline):
        base.check(cfg)
    elif cfg.network != "vae":
        _check_transformer(cfg, base)
    elif isinstance(cfg.objective, Autoencoder) and not cfg.objective.branches:
        _check_branches(cfg, base)


def _check_branches(cfg: TrainConfig, pipeline: Pipeline) -> None:
    """Raises ValueError unless the autoencoder is the same without its residual branches."""
    leaves = [] if cfg.from_scratch else jax.tree_util.tree_leaves_with_path(pipeline.params("vae"))
    names = [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]
    last = [leaf for name, leaf in names if name.rpartition("/")[0].endswith(("/conv2", "/proj"))]
    if cfg.from_scratch or any(np.any(leaf) for leaf in last):
        raise ValueError(
            "objective.branches: residual blocks are left out only where they add nothing yet, and those of "
            f"{'random weights' if cfg.from_scratch else cfg.checkpoint} do: train with them, or start from "
            "`python -m lcv_jax.toy.start`"
        )


def _check_transformer(cfg: TrainConfig, pipeline: Pipeline) -> None:
    if not cfg.from_scratch:
        store.check_unquantized(cfg.checkpoint, "training")
    adapter = cfg.adapter
    named = [adapter.start, adapter.teacher] if adapter else []
    for name in [*named, *(name for name, _ in cfg.fold)]:
        if name is not None:
            store.check_adapter(cfg.checkpoint, name, pipeline.dit_config)
    if isinstance(cfg.objective, SelfForcing):
        _check_causal(cfg, pipeline)
    data = cfg.data
    if cfg.samples.every is not None:
        _check_samples(cfg, pipeline, cfg.samples.prompts)
    if cfg.evaluation.every is not None:
        evaluation_package("cv2")
        _check_samples(cfg, pipeline, [item.prompt for item in chosen_items(cfg.evaluation)])
    if isinstance(data, PromptsConfig):
        pipeline.tokenizer.tokenize([data.negative_prompt], data.max_sequence_length)
    elif isinstance(data, DataConfig) and data.mode == "clips":
        _ = pipeline.tokenizer
        factor = pipeline.vae.cfg.temporal_factor
        if data.temporal_factor != factor:
            raise ValueError(f"data.temporal_factor must be the autoencoder's {factor}, got {data.temporal_factor}")


def _check_causal(cfg: TrainConfig, pipeline: Pipeline) -> None:
    """Warns unless self-forcing starts from a causal student, and its teacher is causal or not, as the scores are.

    Raises:
        ValueError: the scores are of chunks, and no adapter of the teacher is named.
    """
    assert cfg.adapter is not None
    assert isinstance(cfg.objective, SelfForcing)
    of_chunks = cfg.objective.teacher == "chunks"
    if of_chunks and cfg.adapter.teacher is None and not trained_causally(pipeline.provenance, ()):
        raise ValueError(
            'objective.teacher "chunks" wants a teacher that was trained on causal chunks: train causal.py as an '
            "adapter first (docs/streaming.md), and set adapter.teacher and adapter.start to it"
        )
    start, provenance = cfg.adapter.start, pipeline.provenance
    if start is not None and Path(start).parent.name == "adapters":
        provenance = store.read_provenance(Path(start).parent.parent)
    advice = "train causal.py as an adapter first (docs/streaming.md) and set adapter.start to it"
    if not of_chunks and trained_causally(pipeline.provenance, ()):
        warnings.warn(
            f"the weights of {cfg.checkpoint}, which are the teacher's too, were trained on causal chunks in full: a "
            f"teacher of whole clips is better; {advice}",
            stacklevel=2,
        )
    elif not trained_causally(provenance, [] if start is None else [start]):
        warnings.warn(
            "self-forcing starts from a student that was never trained on causal chunks: its first rollouts drift, and "
            f"it takes many more steps; {advice}",
            stacklevel=2,
        )


def _check_samples(cfg: TrainConfig, pipeline: Pipeline, prompts: Sequence[str]) -> None:
    samples = cfg.samples
    SamplingOptions(num_steps=samples.num_steps, guidance_scale=samples.guidance_scale, distilled=samples.distilled)
    try:
        check_size(*samples.size, pipeline.granularity(sparse=False))
        check_sizes(cfg, pipeline, [((samples.num_frames, *samples.size), 0)])
    except ValueError as error:
        raise ValueError(f"samples: {error}") from None
    assert isinstance(cfg.data, DataConfig | PromptsConfig)
    pipeline.tokenizer.tokenize(prompts, cfg.data.max_sequence_length)


def check_sizes(cfg: TrainConfig, pipeline: Pipeline, sizes: Sequence[tuple[Size, int]]) -> None:
    """Checks that the networks can compute clips of these sizes.

    Args:
        sizes: each with the number of its latent frames that are given.

    Raises:
        ValueError: a number of frames, a height or a width that they cannot.
    """
    vae, patch = pipeline.vae.cfg, pipeline.dit_config.patch_size
    granularity = vae.spatial_factor if cfg.network == "vae" else pipeline.granularity(sparse=False)
    for size, given in sizes:
        if (size[0] - 1) % vae.temporal_factor or size[1] % granularity or size[2] % granularity:
            raise ValueError(
                f"{as_text(size)}: frames must be a multiple of {vae.temporal_factor} plus 1, "
                f"height and width multiples of {granularity}"
            )
        if isinstance(cfg.objective, SelfForcing):
            latents, chunk = pipeline.latent_shape(*size)[0], cfg.objective.window.chunk
            if latents % chunk:
                raise ValueError(
                    f"{as_text(size)}: {latents} latent frames are no whole chunks of {chunk}; set "
                    "objective.window.chunk, or other data.sizes"
                )
        if cfg.sparse is not None:
            latents, rows, columns = pipeline.latent_shape(*size)[:3]
            sparse_order(cfg.sparse, (latents, rows // patch[1], columns // patch[2]), given)
