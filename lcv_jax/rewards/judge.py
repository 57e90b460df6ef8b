"""Released reward models in this process: `load_judge` of a converted folder, then pictures or videos to numbers.

    judge = load_judge("hpsv3")
    judge.score_images(images, prompts)              N x (mu, log sigma); mu is the reward
    judge = load_judge("videoreward")
    judge.normalise(judge.score_videos(videos, fps, prompts))      N x (VQ, MQ, TA, overall)

Numbers are those of the published code to rounding; docs/judges.md has the tolerances.
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lcv_jax.array_types import Array, DTypeLike, Float, Params
from lcv_jax.checkpoint import store
from lcv_jax.checkpoint.judge_conversion import load_judge_config, load_judge_params
from lcv_jax.data.patches import cells
from lcv_jax.models.judges import HPSV3, VIDEOREWARD, JudgeConfig, JudgeNetwork
from lcv_jax.models.qwen2_vision import MERGED
from lcv_jax.models.qwen2_vl import Branches
from lcv_jax.parallel.mesh import AXES, batch_axes
from lcv_jax.parallel.sharding import Rules, full_sharding, loading_rule
from lcv_jax.rewards import hpsv3, videoreward
from lcv_jax.rewards.conversation import Conversation
from lcv_jax.rewards.judge_batches import MAX_ENDS, Row, Shape, batches, bucket, make_row, pack

BATCH_SIZE = 8
Many = Sequence[Any] | np.ndarray
"""What users hand in: checked here, so that errors say what is wrong with which."""


def load_judge(
    folder: str | Path,
    *,
    exact_frequencies: bool = False,
    dtype: DTypeLike = "float32",
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    batch_size: int = BATCH_SIZE,
) -> "Judge":
    """Loads a reward model that convert_torch_weights.py wrote with --judge.

    Args:
        folder: the converted folder.
        exact_frequencies: rotary frequencies as the formula has them, and not rounded to bfloat16 as published.
        dtype: of weights and arithmetic; bfloat16 takes half of the memory. HPSv3's head is float32 in both.
        mesh: devices of this process that share the work, of parallel/mesh.py; None: the default device.
        rules: where parameters lie on the mesh, a table of parallel/sharding.py; None: in parts.
        batch_size: pictures or videos of one call of a compiled program, on each device.

    Raises:
        ValueError: no converted reward model, a damaged one, or a mesh of several processes.
    """
    cfg = load_judge_config(folder)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if mesh is not None and mesh.is_multi_process:
        raise ValueError("a judge's mesh must be of one process's devices: make_mesh(..., devices=jax.local_devices())")
    conversation = Conversation(cfg, store.tokenizer_folder(folder) / "tokenizer.json")
    sharding = None if mesh is None else loading_rule(mesh, full_sharding() if rules is None else rules)
    params = load_judge_params(folder, cfg, jnp.dtype(dtype), sharding)
    network = JudgeNetwork(cfg, jnp.dtype(dtype), jnp.dtype(dtype), exact_frequencies=exact_frequencies)
    return Judge(network, params, conversation, mesh, batch_size)


class Judge:
    """A reward model on its devices."""

    def __init__(
        self,
        network: JudgeNetwork,
        params: Params,
        conversation: Conversation,
        mesh: Mesh | None = None,
        batch_size: int = BATCH_SIZE,
    ):
        self.network, self.params, self.conversation = network, params, conversation
        self.mesh, self.batch_size = mesh, batch_size
        self.programs: set[tuple[Shape, int]] = set()
        """The shapes that scores were computed at, each of which compiles once."""

    @property
    def cfg(self) -> JudgeConfig:
        """Of the network."""
        return self.network.cfg

    def score_images(self, images: Many, prompts: Many) -> Float[np.ndarray, "N outputs"]:
        """Numbers of pictures under captions; a picture that comes several times is looked at once.

        Args:
            images: uint8 arrays H W 3 of any sizes.
            prompts: a text for each.

        Raises:
            ValueError: the judge scores videos, or a picture or caption that it cannot take.
        """
        self._check(HPSV3, "images", images, prompts)
        for number, image in enumerate(images):
            _check_pixels(f"image {number}", image, 3)
        loads = [functools.partial(hpsv3.picture_patches, image, self.cfg) for image in images]
        grids = _each("image", lambda image: hpsv3.picture_grid(image.shape, self.cfg), images)
        return self._score([_digest(image) for image in images], loads, grids, prompts)

    def score_videos(self, videos: Many, fps: Many, prompts: Many) -> Float[np.ndarray, "N outputs"]:
        """Raw visual quality, motion quality and text alignment of videos under captions.

        Args:
            videos: uint8 arrays T H W 3 of any lengths and sizes.
            fps: frames a second of each.
            prompts: a text for each.

        Raises:
            ValueError: the judge scores pictures, or a video, frame rate or caption that it cannot take.
        """
        self._check(VIDEOREWARD, "videos", videos, prompts)
        if len(fps) != len(videos):
            raise ValueError(f"{len(videos)} videos need as many frame rates in fps, got {len(fps)}")
        for number, video in enumerate(videos):
            _check_pixels(f"video {number}", video, 4)
        pairs = list(zip(videos, map(float, fps), strict=True))
        loads = [functools.partial(videoreward.video_patches, video, rate, self.cfg) for video, rate in pairs]
        grids = _each("video", lambda pair: videoreward.video_grid(pair[0].shape, pair[1], self.cfg), pairs)
        return self._score([(_digest(video), rate) for video, rate in pairs], loads, grids, prompts)

    def normalise(self, raw: Float[np.ndarray, "N outputs"]) -> Float[np.ndarray, "N 4"]:
        """VQ, MQ and TA less their mean over their standard deviation, as published, and overall, their sum.

        Raises:
            ValueError: the judge has no such statistics.
        """
        if not self.cfg.statistics:
            raise ValueError(f"this {self.cfg.kind} has no means and deviations of its scores: they are not normalised")
        mean, std = np.array(self.cfg.statistics, np.float32).T
        scaled = (np.asarray(raw, np.float32) - mean) / std
        return np.concatenate([scaled, scaled.sum(axis=-1, keepdims=True)], axis=-1)

    def encode_image(self, pixel_values_NP: Float[np.ndarray, "N P"], grid_thw: Many) -> Float[np.ndarray, "tokens D"]:
        """The vision tower alone: tokens of pictures and videos, one after the other.

        Args:
            pixel_values_NP: normalised patches of all of them, in the order of data/patches.py.
            grid_thw: temporal patches, rows and columns of each.

        Raises:
            ValueError: the patches are not those of the grids.
        """
        grids = [tuple(map(int, grid)) for grid in np.asarray(grid_thw)]
        features = self.cfg.network.vision_config.patch_features
        total = sum(t * h * w for t, h, w in grids)
        if pixel_values_NP.shape != (total, features) or any(h % 2 or w % 2 for _, h, w in grids):
            raise ValueError(
                f"the grids {grids} have {total} patches of {features} numbers, and rows and columns must be even; "
                f"got {pixel_values_NP.shape}"
            )
        sizes = [(h, w) for t, h, w in grids for _ in range(t)]
        count, longest = len(sizes), max((h * w for h, w in sizes), default=0)
        size, length = self._rows(bucket(count)), MERGED * bucket(longest // MERGED)
        patches = np.zeros((size, length, features), np.float32)
        places, mask = np.zeros((size, length, 2), np.int32), np.zeros((size, length), bool)
        at = 0
        for number, (h, w) in enumerate(sizes):
            patches[number, : h * w] = pixel_values_NP[at : at + h * w]
            places[number, : h * w], mask[number, : h * w] = cells(h, w), True
            at += h * w
        arguments = {"patches_BTSC": patches[:, None], "cells_BS2": places, "mask_BTS": mask[:, None]}
        with self._on_mesh():
            tokens = np.asarray(_encode(self.network, self.params, self._placed(arguments)))
        parts = [tokens[number, : h * w // MERGED] for number, (h, w) in enumerate(sizes)]
        return np.concatenate(parts) if parts else np.zeros((0, tokens.shape[-1]), np.float32)

    def _check(self, kind: str, what: str, given: Many, prompts: Many) -> None:
        if self.cfg.kind != kind:
            other = "images" if what == "videos" else "videos"
            raise ValueError(f"this judge is {self.cfg.kind}: it scores {other}, not {what}")
        if isinstance(prompts, str) or len(given) != len(prompts):
            raise ValueError(f"{len(given)} {what} need as many prompts, got {len(prompts)}")
        wrong = [number for number, prompt in enumerate(prompts) if not isinstance(prompt, str)]
        if wrong:
            raise ValueError(f"prompt {wrong[0]} is {type(prompts[wrong[0]]).__name__}, wanted text")

    def _score(
        self,
        identities: Sequence[Any],
        loads: Sequence[Callable[[], np.ndarray]],
        grids: Sequence[tuple[int, int, int]],
        prompts: Many,
    ) -> Float[np.ndarray, "N outputs"]:
        """Scores of what may come several times, under captions that may too."""
        asked: dict[Any, dict[str, list[int]]] = {}
        for number, (identity, prompt) in enumerate(zip(identities, prompts, strict=True)):
            asked.setdefault(identity, {}).setdefault(prompt, []).append(number)
        rows = []
        for by_prompt in asked.values():
            captions = list(by_prompt.items())
            first = captions[0][1][0]
            for start in range(0, len(captions), MAX_ENDS):
                some = captions[start : start + MAX_ENDS]
                rows.append(make_row(self.conversation, loads[first], grids[first], some))
        return self._score_rows(rows, len(prompts))

    def _score_rows(self, rows: Sequence[Row], num_scores: int) -> Float[np.ndarray, "N outputs"]:
        devices = 1 if self.mesh is None else self.mesh.size
        running = []
        with self._on_mesh():
            # Devices compute a batch while the next one's pixels are resized.
            for shape, size, some in batches(rows, self.conversation, self.batch_size * devices, devices):
                running.append((some, self._run(pack(some, shape, size, self.conversation), shape)))
                self.programs.add((shape, size))
        scores = np.full((num_scores, len(self.cfg.outputs)), np.nan, np.float32)
        for some, out in running:
            for row, values_QO in zip(some, np.asarray(out), strict=False):
                for values_O, results in zip(values_QO, row.results, strict=False):
                    scores[list(results)] = values_O
        return scores

    def _run(self, packed: Mapping[str, np.ndarray], shape: Shape) -> Array:
        """Scores B Q outputs of a packed batch."""
        arguments: dict[str, Any] = dict(packed)
        arguments["branches"] = Branches(begun_BP=arguments.pop("begun_BP"), num_ends=shape.ends)
        return score_packed(self.network, self.params, self._placed(arguments))

    def _rows(self, count: int) -> int:
        devices = 1 if self.mesh is None else self.mesh.size
        return -(-max(count, 1) // devices) * devices

    def _placed(self, arguments: Any) -> Any:
        if self.mesh is None:
            return arguments
        mesh = self.mesh

        def place(x: np.ndarray) -> jax.Array:
            return jax.device_put(x, NamedSharding(mesh, PartitionSpec(batch_axes(mesh, x.shape[0], AXES))))

        return jax.tree.map(place, arguments)

    def _on_mesh(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)


@functools.partial(jax.jit, static_argnums=0)
def score_packed(network: JudgeNetwork, params: Params, arguments: dict[str, Any]) -> Array:
    """Scores B Q outputs of a packed batch: the program that a shape compiles."""
    scores: Any = network.apply({"params": params}, **arguments)
    return scores


@functools.partial(jax.jit, static_argnums=0)
def _encode(network: JudgeNetwork, params: Params, arguments: dict[str, Any]) -> Array:
    tokens: Any = network.apply({"params": params}, **arguments, method="encode")
    return tokens.astype(jnp.float32)


def _check_pixels(what: str, pixels: Any, num_axes: int) -> None:
    layout = "T H W 3"[-2 * num_axes + 1 :]
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        raise ValueError(
            f"{what} must be a uint8 array {layout}, got {getattr(pixels, 'dtype', type(pixels).__name__)}"
        )
    if pixels.ndim != num_axes or pixels.shape[-1] != 3:
        raise ValueError(f"{what} must be a uint8 array {layout}, got shape {pixels.shape}")
    if pixels.size == 0:
        raise ValueError(f"{what} is empty: its shape is {pixels.shape}")


def _each(what: str, function: Callable[[Any], Any], given: Many) -> list[Any]:
    """The function of each; an error says of which."""
    results = []
    for number, one in enumerate(given):
        try:
            results.append(function(one))
        except ValueError as error:
            raise ValueError(f"{what} {number}: {error}") from None
    return results


def _digest(pixels: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    """What equal pixels have in common."""
    return pixels.shape, hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()
