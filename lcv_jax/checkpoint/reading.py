"""Arrays of orbax checkpoints read in parts: slices for export, each device's own part for loading.

Orbax's own restore reads these checkpoints too (any orbax program can). It is not used here because one damaged tile
makes it abandon its other reads, which then print pages of errors each; and because reading array after array bounds
what the host holds to little more than the largest.
"""

import collections
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore as ts

KeyPath = tuple[str, ...]

IN_FLIGHT_BYTES = 1 << 30
"""Reads begun before the arrays they belong to are finished; a larger array is read alone."""


def open_arrays(checkpoint: Path) -> dict[KeyPath, ts.TensorStore]:
    """All arrays of a checkpoint written by streaming.py, by their paths.

    Raises:
        ValueError: an array's metadata is damaged.
    """
    folders = sorted(folder for folder in checkpoint.resolve().glob("*") if (folder / "zarr.json").is_file())
    specs = [{"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/"}} for folder in folders]
    # A missing file is an error and not zeros: all of them were written.
    opened = [ts.open(spec | {"fill_missing_data_reads": False}, open=True, read=True) for spec in specs]
    return {tuple(folder.name.split(".")): future.result() for folder, future in zip(folders, opened, strict=True)}


def read_ahead(reads: Iterable[Callable[[], ts.Future]], depth: int = 2) -> Iterator[np.ndarray]:
    """The results of reads, of which the next few are always under way."""
    waiting: collections.deque[ts.Future] = collections.deque()
    for start in reads:
        waiting.append(start())
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def read_onto_devices(
    arrays: Mapping[KeyPath, ts.TensorStore],
    dtype: Any,
    sharding_of: Callable[[KeyPath, tuple[int, ...]], jax.sharding.Sharding],
) -> Iterator[tuple[KeyPath, jax.Array]]:
    """Reads arrays onto devices, each device's part alone and the next arrays ahead.

    Args:
        arrays: what to read.
        dtype: what to cast to, or a function of the path that gives it; None keeps what is stored.
        sharding_of: the sharding of an array, from its path and shape.
    """
    waiting: collections.deque[tuple[KeyPath, _Loading]] = collections.deque()
    held = 0
    for path, array in arrays.items():
        wanted = dtype(path) if inspect.isfunction(dtype) else dtype
        waiting.append((path, _Loading(array, wanted, sharding_of(path, array.shape))))
        held += waiting[-1][1].num_bytes
        while held > IN_FLIGHT_BYTES:
            path, loading = waiting.popleft()
            held -= loading.num_bytes
            yield path, loading.finish()
    while waiting:
        path, loading = waiting.popleft()
        yield path, loading.finish()


class _Loading:
    """One array on its way: the reads of all parts that this process's devices need, each part once."""

    def __init__(self, array: ts.TensorStore, dtype: Any, sharding: jax.sharding.Sharding):
        self.shape, self.sharding = array.shape, sharding
        self.dtype = np.dtype(dtype or array.dtype.numpy_dtype)
        needed = sharding.addressable_devices_indices_map(array.shape).values()
        parts = {self._key(part): array[part] for part in needed}
        self.reads = {key: part.read() for key, part in parts.items()}
        self.num_bytes = sum(part.size for part in parts.values()) * array.dtype.numpy_dtype.itemsize

    def _key(self, part: tuple[slice, ...] | None) -> tuple[tuple[int, int, int], ...]:
        return tuple(axis.indices(size) for axis, size in zip(part or (), self.shape, strict=True))

    def finish(self) -> jax.Array:
        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            return self.reads[self._key(index)].result().astype(self.dtype, copy=False)

        return jax.make_array_from_callback(self.shape, self.sharding, part)
