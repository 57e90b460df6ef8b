"""Captions of videos and pictures by a converted Qwen2-VL, in this process: `load_captioner`, then `caption`.

    captioner = load_captioner("qwen2_vl")
    captioner.caption([video_THWC], [15.0], "Describe this video.")      a text for each

For a captioner behind a server, and for captions in two languages with their checks, see curation/stages/captions.py.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lcv_jax.array_types import DTypeLike, Params
from lcv_jax.captioning.prompts import QUESTION, CaptionPrompts, Clip, Shape, Views, pack, shape_of
from lcv_jax.checkpoint import store
from lcv_jax.models.captioner import Captioner as Network
from lcv_jax.parallel.sharding import REPLICATED, batch_sharding, loading_rule
from lcv_jax.rewards.judge_batches import bucket
from lcv_jax.sampling.text import TextSampling, write_text

BATCH_SIZE = 4


def load_captioner(
    folder: str | Path,
    *,
    dtype: DTypeLike = "bfloat16",
    views: Views = Views(),  # noqa: B008  (frozen)
    batch_size: int = BATCH_SIZE,
    mesh: Mesh | None = None,
) -> "Captioner":
    """Loads a captioner that convert_torch_weights.py wrote.

    Args:
        folder: the converted folder.
        dtype: of weights and arithmetic.
        views: which frames of a clip the network sees, and how large.
        batch_size: clips of one call of a compiled program, on each device.
        mesh: devices of this process that share the clips, of parallel/mesh.py; each has all weights. None: the default
            device.

    Raises:
        ValueError: no converted Qwen2-VL, a damaged one, or a mesh of several processes.
    """
    if mesh is not None and mesh.is_multi_process:
        raise ValueError(
            "a captioner's mesh must be of one process's devices: make_mesh(..., devices=jax.local_devices())"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    prompts = CaptionPrompts(store.load_config(folder, "qwen2_vl"), store.tokenizer_folder(folder) / "tokenizer.json")
    rule = None if mesh is None else loading_rule(mesh, REPLICATED)
    cfg, params = store.load_component(folder, "qwen2_vl", jnp.dtype(dtype), rule)
    return Captioner(Network(cfg, jnp.dtype(dtype), jnp.dtype(dtype)), params, prompts, views, batch_size, mesh)


class Captioner:
    """A captioner on its devices."""

    def __init__(
        self,
        network: Network,
        params: Params,
        prompts: CaptionPrompts,
        views: Views,
        batch_size: int,
        mesh: Mesh | None = None,
    ):
        self.network, self.params, self.prompts = network, params, prompts
        self.views, self.mesh = views, mesh
        self.num_devices = 1 if mesh is None else mesh.size
        self.batch_size = batch_size * self.num_devices

    def caption(
        self,
        videos: Sequence[np.ndarray],
        fps: Sequence[float],
        question: str = QUESTION,
        sampling: TextSampling = TextSampling(),  # noqa: B008  (frozen)
        seed: int = 0,
    ) -> list[str]:
        """A text about each video. It is the same whatever else is captioned beside it.

        Args:
            videos: uint8 arrays T H W 3 of any lengths and sizes; a picture is one frame.
            fps: frames a second of each.
            question: what is asked.
            sampling: how tokens are drawn.
            seed: of the draws.

        Raises:
            ValueError: a video that cannot be taken.
        """
        if len(fps) != len(videos):
            raise ValueError(f"{len(videos)} videos need as many frame rates in fps, got {len(fps)}")
        clips = [self.prompts.clip(number, *clip, question, self.views) for number, clip in enumerate(zip(videos, fps))]  # noqa: B905
        texts = [""] * len(clips)
        by_shape: dict[Shape, list[int]] = {}
        for number, clip in enumerate(clips):
            by_shape.setdefault(shape_of(clip), []).append(number)
        for alike in by_shape.values():
            for start in range(0, len(alike), self.batch_size):
                some = alike[start : start + self.batch_size]
                written = self._write([clips[number] for number in some], sampling, seed)
                for number, text in zip(some, written, strict=True):
                    texts[number] = text
        return texts

    def _write(self, clips: Sequence[Clip], sampling: TextSampling, seed: int) -> list[str]:
        """Texts of clips of one shape."""
        rows = -(-bucket(len(clips)) // self.num_devices) * self.num_devices
        given = (*pack(clips, rows, self.prompts), np.full(rows, seed, np.uint32))
        with contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh):
            if self.mesh is not None:
                given = jax.device_put(given, batch_sharding(self.mesh, rows))
            asked, length_B, position_B, seed_B = given
            keys = jax.vmap(jax.random.key)(seed_B)
            written_BT = write_text(
                self.network, sampling, self.params, asked, length_B, position_B, keys, stops=self.prompts.stops
            )
        return [self.prompts.text_of(ids) for ids in np.asarray(written_BT)[: len(clips)].tolist()]
