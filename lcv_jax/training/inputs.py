"""Batches as the step takes them: this process's rows put on the mesh, encoded where the data are not yet."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lcv_jax.array_types import Array
from lcv_jax.checkpoint import store
from lcv_jax.data import batches
from lcv_jax.data.batches import Batch, BatchKind
from lcv_jax.data.config import DataConfig
from lcv_jax.data.identity import Row
from lcv_jax.parallel.sharding import batch_sharding
from lcv_jax.pipeline import Pipeline
from lcv_jax.sampling.denoise import encode_frames, encode_text
from lcv_jax.training.base import Base
from lcv_jax.training.config import TrainConfig
from lcv_jax.training.state import Frozen, TrainState

NEGATIVE = "negative_text_1LD", "negative_mask_1L"


def check_batch_size(cfg: TrainConfig, mesh: Mesh) -> None:
    """Raises ValueError for a batch that does not divide over the devices."""
    part = cfg.batch_size // cfg.optimizer.accumulation
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    if part % devices:
        raise ValueError(
            f"batch_size {cfg.batch_size} in {cfg.optimizer.accumulation} parts does not divide over data x fsdp = "
            f"{devices} devices: give a multiple of {devices * cfg.optimizer.accumulation}"
        )


def _opener(cfg: TrainConfig, base: Base) -> Callable[..., batches.Batches]:
    """What opens the data."""
    if not isinstance(base, Pipeline):
        return functools.partial(base.open_data, cfg)
    assert isinstance(cfg.data, DataConfig)
    if cfg.data.tokenizer is not None:
        store.tokenizer_folder(cfg.data.tokenizer)  # verifies it
    return functools.partial(
        batches.open_batches, cfg.data, late_captions=getattr(cfg.objective, "late_captions", False)
    )


class Inputs:
    """The data of a run, ready for the step."""

    def __init__(self, cfg: TrainConfig, mesh: Mesh, base: Base, *, held_out: bool = False):
        """Opens the data.

        Args:
            held_out: read the clips of `data.held_out` instead of the others.

        Raises:
            ValueError: data that cannot be read, or a batch that does not divide over the devices.
        """
        check_batch_size(cfg, mesh)
        self._mesh, self._sharding = mesh, batch_sharding(mesh, cfg.batch_size)
        self._whole = NamedSharding(mesh, PartitionSpec())
        first, rows = self._own_rows(cfg.batch_size)
        self._iterator = _opener(cfg, base)(
            batch_size=cfg.batch_size,
            seed=cfg.seed,
            process_index=first // rows,
            process_count=cfg.batch_size // rows,
            held_out=held_out,
        )
        self._size, self._base = cfg.batch_size, base
        self.dimensions = () if isinstance(base, Pipeline) else base.dimensions
        self._constants = self._negative() if "negative_text" in cfg.objective.needs else {}

    at_rest = True
    """Between any two batches a checkpoint can say where this stands."""
    told: ClassVar[dict[str, float]] = {}
    """There is nothing more to tell of a batch."""

    def next(self, state: TrainState | None = None, frozen: Frozen | None = None) -> tuple[BatchKind, dict[str, Array]]:
        """A kind, and its arrays over all devices; they do not depend on what was learnt so far."""
        batch: Batch = next(self._iterator)
        arrays = {name: self._place(array) for name, array in batch.arrays.items()}
        if "ids_mask_BL" in arrays:  # of clips that are not encoded
            arrays = self._encode(arrays)
        return batch.kind, {**arrays, **self._constants}

    @property
    def kinds(self) -> list[tuple[BatchKind, tuple[int, int, int]]]:
        """Every kind of batch that can come, with its frames, height and width."""
        return self._iterator.kinds

    @property
    def quarantined(self) -> dict[str, str]:
        """Clips that could not be read so far, with reasons."""
        return self._iterator.quarantined

    def rows(self, known: Mapping[str, Row]) -> Sequence[Row]:
        """The rows that the data consist of, as data/identity.py compares them."""
        return self._iterator.rows(known)

    def close(self) -> None:
        """Stops reading ahead."""
        self._iterator.close()

    def get_state(self) -> dict[str, Any]:
        """The place in the data, for a checkpoint."""
        return self._iterator.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a place."""
        self._iterator.set_state(state)

    def _own_rows(self, batch_size: int) -> tuple[int, int]:
        """The first row of a batch that this process's devices hold, and how many."""
        held = self._sharding.addressable_devices_indices_map((batch_size,)).values()
        spans = [index[0].indices(batch_size) for index in held if index is not None]
        first, last = min(start for start, _, _ in spans), max(stop for _, stop, _ in spans)
        return first, last - first

    def _place(self, rows: np.ndarray) -> Array:
        return jax.make_array_from_process_local_data(self._sharding, rows, (self._size, *rows.shape[1:]))

    def _negative(self) -> dict[str, Array]:
        """The general negative prompt's embedding: as encoded with the data, or encoded now."""
        found: dict[str, Any] = self._iterator.constants
        if NEGATIVE[0] not in found:
            ids_1L, mask_1L = (jnp.asarray(found[name]) for name in ("negative_ids_1L", "negative_ids_mask_1L"))
            found = dict(zip(NEGATIVE, (self._encode_text(ids_1L, mask_1L), mask_1L.astype(bool)), strict=True))
        return {name: jax.device_put(np.asarray(found[name]), self._whole) for name in NEGATIVE}

    @property
    def _pipeline(self) -> Pipeline:
        assert isinstance(self._base, Pipeline)
        return self._base

    def _encode(self, arrays: dict[str, Array]) -> dict[str, Array]:
        pipeline = self._pipeline
        vae, given = pipeline.vae, {name: array for name, array in arrays.items() if name == "caption_start_B"}
        for name in ("video_BTHWC", "upsampled_video_BTHWC"):
            if name in arrays:
                video = jnp.asarray(arrays[name], jnp.float32) / 255
                latents = "latents_BTHWC" if name == "video_BTHWC" else "upsampled_BTHWC"
                given[latents] = encode_frames(vae, pipeline.params("vae"), video, None, "encode")
        given["text_BLD"] = self._encode_text(arrays["ids_BL"], arrays["ids_mask_BL"])
        return given | {"text_mask_BL": jnp.asarray(arrays["ids_mask_BL"], bool)}

    def _encode_text(self, ids_BL: Array, mask_BL: Array) -> Array:
        pipeline = self._pipeline
        return encode_text(pipeline.text_encoder, pipeline.params("text_encoder"), ids_BL, mask_BL)
