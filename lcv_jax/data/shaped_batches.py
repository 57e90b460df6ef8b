"""Batches of samples whose shapes are known one by one, such as a clip's tokens: those of one shape form batches."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lcv_jax.data.batches import Batches, MakeRows
from lcv_jax.data.manifest_config import ManifestConfig
from lcv_jax.data.plans import Choice, Plans
from lcv_jax.data.rows import Source


def batches_by_shape(
    cfg: ManifestConfig,
    task: str,
    by_shape: Mapping[Any, Sequence[Any]],
    source: Callable[[Sequence[Sequence[Any]], Plans, range], Source],
    rows: MakeRows,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Batches of samples of one shape each, every sample once in an epoch.

    Args:
        cfg: how they are read ahead.
        task: of all batches.
        by_shape: samples with an `id`, by what a step is compiled for: tuples.
        source: makes what fetches rows of the buckets, in the order of their shapes.
        rows: the data's, as identity.py compares them.
        batch_size, seed, process_index, process_count: as for `open_batches`.
    """
    shapes = sorted(by_shape)
    buckets = [by_shape[shape] for shape in shapes]
    counts = list(map(len, buckets))
    choices = [Choice(task, 0, bucket) for bucket in range(len(shapes))]
    plans = Plans(choices, list(map(float, counts)), counts, None, batch_size, seed)
    per_process = batch_size // process_count
    own = range(process_index * per_process, (process_index + 1) * per_process)
    told = json.dumps([[*shape, *[sample.id for sample in by_shape[shape]]] for shape in shapes])
    data_hash = hashlib.sha256(told.encode()).hexdigest()
    return Batches(cfg, plans, source(buckets, plans, own), shapes, data_hash=data_hash, rows=rows, constants={})
