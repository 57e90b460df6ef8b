"""Orbax checkpoints larger than memory, written slice by slice (reading.py reads them).

Orbax takes a tree of whole arrays, and a scanned transformer's are up to 4.8 GB each in bfloat16 (all layers of one
kernel), which the published files scatter over their shards, layer by layer. So the tree handed to orbax holds only
promises of arrays, and a type handler of our own opens the array that each one promises and then writes the published
tensors into their places in whatever order they come. What lies on disk is an ordinary orbax checkpoint: the metadata
is orbax's, the arrays are zarr3 as orbax writes them, and plain orbax restores it, onto devices and shardings too.

Each array is cut into files of one slice (one layer of one kernel), written in one piece, and each file into tiles of a
few MB that can be read alone: a restore onto many devices reads what each needs and little more. Tiles are compressed
like orbax's, and checked by a CRC-32C. Small arrays are gathered first and written as one file.

The files are not OCDBT, orbax's other layout: that one rewrites its directory tree at every write outside a
transaction, and a transaction would keep everything in memory.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

KeyPath = tuple[str, ...]
Shape = tuple[int, ...]
Part = tuple[KeyPath, tuple[int | slice, ...], np.ndarray]
"""A piece of a tree of arrays: the array's path, an index into it, the values there."""

SMALL_BYTES = 1 << 24
"""Arrays up to this size are gathered in memory and written as one file."""
TILE_BYTES = 1 << 22
IN_FLIGHT_BYTES = 1 << 28
"""Slices handed to tensorstore and not yet on disk."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Promise:
    """An array that will be written in slices."""

    shape: Shape
    dtype: np.dtype
    slice_shape: Shape
    """What is written at once and lies in one file; of the array's rank."""

    @property
    def num_bytes(self) -> int:
        """What its values take."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def small(self) -> bool:
        """Whether it is written as one file."""
        return self.num_bytes <= SMALL_BYTES


def write_checkpoint(folder: Path, promises: Mapping[KeyPath, Promise], parts: Iterable[Part]) -> None:
    """Writes an orbax checkpoint from parts that come in any order.

    Args:
        folder: the checkpoint's folder; must not exist.
        promises: every array of the tree by its path.
        parts: all of every array, each element once.
    """
    tree: dict[str, Any] = {}
    for path, promise in promises.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = promise
    registry = ocp.type_handlers.create_type_handler_registry((Promise, _PromiseHandler(parts)))
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=True, type_handler_registry=registry)
    # One process writes; orbax would wait for all.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix="write_checkpoint",
    )
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        checkpointer.save(folder.resolve(), args=ocp.args.PyTreeSave(tree))
    # It says on whose disk the folder was written, and is read for object stores alone.
    (folder / "commit_success.txt").unlink(missing_ok=True)


class _PromiseHandler(ocp.type_handlers.NumpyHandler):
    """Keeps promises. On disk they are what orbax calls numpy arrays: arrays without a sharding of their own."""

    def __init__(self, parts: Iterable[Part]):
        super().__init__()
        self._parts = parts

    async def serialize(
        self,
        values: Sequence[Promise],
        infos: Sequence[ocp.type_handlers.ParamInfo],
        args: Sequence[ocp.type_handlers.SaveArgs] | None = None,
    ) -> list[Any]:
        sinks = {}
        for promise, info in zip(values, infos, strict=True):
            await info.await_path_creation()
            path = tuple(key.key for key in info.keypath)
            array = await ts.open(_spec(info.path, promise), create=True, open=True, context=info.ts_context)
            sinks[path] = _Sink(promise, array)
        _pump(sinks, self._parts)
        return []


def _spec(folder: Any, promise: Promise) -> dict[str, Any]:
    """One array's zarr3 metadata: files of one slice (all of it where small), in them an index of compressed tiles."""
    file_shape = promise.shape if promise.small else promise.slice_shape
    little_endian = {"name": "bytes", "configuration": {"endian": "little"}}
    tiles = {
        "chunk_shape": _tile(file_shape, promise.dtype.itemsize),
        "codecs": [little_endian, {"name": "zstd", "configuration": {"level": 1}}, {"name": "crc32c"}],
        "index_codecs": [little_endian, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "driver": "zarr3",
        # Forcing thousands of files to disk one by one takes minutes; what a power cut loses, the CRCs tell at loading.
        "kvstore": {"driver": "file", "path": f"{folder}/", "file_io_sync": False},
        # Written even where zero, so that a file that is missing is noticed when it is read.
        "store_data_equal_to_fill_value": True,
        "metadata": {
            "shape": promise.shape,
            "data_type": promise.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": file_shape}},
            "codecs": [{"name": "sharding_indexed", "configuration": tiles}],
        },
    }


def _tile(shape: Shape, itemsize: int) -> Shape:
    """The largest axis halved until a tile is small: halves, because devices and shardings come in powers of two."""
    tile = list(shape)
    while math.prod(tile) * itemsize > TILE_BYTES and any(size % 2 == 0 for size in tile):
        axis = max((axis for axis, size in enumerate(tile) if size % 2 == 0), key=lambda axis: tile[axis])
        tile[axis] //= 2
    return tuple(tile)


class _Sink:
    """Where the slices of one array go: to disk, or to memory until a small array is whole."""

    def __init__(self, promise: Promise, array: ts.TensorStore):
        self.array = array
        self.missing = math.prod(promise.shape)
        self.gathered = np.empty(promise.shape, promise.dtype) if promise.small else None

    def write(self, index: tuple[int | slice, ...], part: np.ndarray) -> ts.WriteFutures | None:
        self.missing -= part.size
        if self.gathered is None:
            return self.array[index].write(part, can_reference_source_data_indefinitely=True)
        self.gathered[index] = part
        if self.missing:
            return None
        return self.array.write(self.gathered, can_reference_source_data_indefinitely=True)


def _pump(sinks: Mapping[KeyPath, _Sink], parts: Iterable[Part]) -> None:
    """Writes parts as they come; tensorstore's threads encode some while the next are read, within a bound."""
    in_flight: collections.deque[tuple[ts.WriteFutures, int]] = collections.deque()
    held = 0
    try:
        for path, index, part in parts:
            future = sinks[path].write(index, part)
            if future is not None:
                in_flight.append((future, part.nbytes))
                held += part.nbytes
            while held > IN_FLIGHT_BYTES:
                oldest, size = in_flight.popleft()
                oldest.result()
                held -= size
        for future, _ in in_flight:
            future.result()
    except BaseException:
        # Nobody may clear the folder away while writes to it are under way.
        for future, _ in in_flight:
            future.commit.exception()
        raise
    unwritten = [".".join(path) for path, sink in sinks.items() if sink.missing]
    if unwritten:
        raise AssertionError(f"not written in full: {', '.join(unwritten)}")
