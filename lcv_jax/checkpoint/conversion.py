"""From a published folder to a converted one, in memory that does not grow with the checkpoint.

The weights stream file by file and in the files' own order, are hashed as they pass, and go into their places in orbax
checkpoints a layer at a time (see streaming.py).
"""

import datetime
import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from lcv_jax.array_types import Params
from lcv_jax.checkpoint import convert, names, store, streaming
from lcv_jax.checkpoint.published import Fold, Published, Weights
from lcv_jax.checkpoint.safetensors_files import block_rows
from lcv_jax.checkpoint.scaled_fp8 import is_float8
from lcv_jax.checkpoint.workspace import copy_folder, workspace
from lcv_jax.models import lora
from lcv_jax.models.quantize import is_quantized_kernel, quantize_kernel, scale_path
from lcv_jax.own_files import file_sha256

Progress = Callable[[str, int], None]
"""Is told a component's or adapter's name and how many more of its bytes are done."""
Promises = Mapping[tuple[str, ...], streaming.Promise]
Edit = Callable[[names.Leaf, tuple[int, ...], np.ndarray], np.ndarray]
"""Changes the slice of a parameter at an index before it is cast and written."""


def convert_checkpoint(
    published: Published,
    dest: Path,
    *,
    dtype: Any = None,
    folds: Sequence[Fold] = (),
    quantize: bool = False,
    progress: Progress = lambda name, num_bytes: None,
) -> None:
    """Writes the converted folder.

    Args:
        published: what to convert.
        dest: the folder to write; must not exist, or be empty.
        dtype: what the parameters are cast to; None keeps each as it is.
        folds: adapters to add to the transformer's kernels, in float32 before any cast.
        quantize: store the linear layers of the transformer's blocks in eight bits (models/quantize.py).
        progress: is told the bytes that were read.

    Raises:
        ValueError: the destination exists, or the weights turn out to be wrong.
        OSError: the disk is full.
    """
    promises = {
        weights.name: promise_arrays(weights, dtype, quantize and weights.name == "dit")
        for weights in published.weights
    }
    needed = sum(promise.num_bytes for tree in promises.values() for promise in tree.values())
    with workspace(dest, needed) as work:
        components: dict[str, Any] = {}
        for name, weights in published.networks.items():
            edit = functools.partial(_fold, folds) if name == "dit" and folds else None
            components[name] = write_network(work / name / "params", weights, promises[name], progress, edit)
            shutil.copyfile(published.folder / name / "config.json", work / name / "config.json")
        if "dit" in components:
            components["dit"]["folded"] = [
                {"name": adapter.name, "multiplier": multiplier, "files": [file_record(adapter.files[0].path)]}
                for adapter, multiplier in folds
            ]
            if quantize:
                components["dit"]["quantized"] = "int8"
        for name in published.copied:
            copy_folder(published.folder / name, work / name)
            files = sorted(path for path in (work / name).rglob("*") if path.is_file())
            components[name] = {"files": [file_record(path) for path in files]}
        if published.adapters:
            components["lora"] = {
                name: write_network(work / "adapters" / name, weights, promises[name], progress)
                for name, weights in published.adapters.items()
            }
            shutil.copyfile(published.folder / "dit" / "config.json", work / "adapters" / "config.json")
        provenance = provenance_record(published.folder, dtype, components)
        (work / store.PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n")
        store.write_checksums(work)


def provenance_record(source: Path, dtype: Any, components: Mapping[str, Any]) -> dict[str, Any]:
    """What `store.read_provenance` reads."""
    return {
        "format": store.FORMAT,
        "version": store.VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "source": str(source),
        "dtype": "source" if dtype is None else np.dtype(dtype).name,
        "versions": store.package_versions(),
        "components": components,
    }


def file_record(path: Path) -> dict[str, Any]:
    """A file's name, size and hash."""
    return {"name": path.name, "size": path.stat().st_size, "sha256": file_sha256(path)}


def promise_arrays(weights: Weights, dtype: Any, quantize: bool = False) -> Promises:
    """What will be written of each parameter.

    Raises:
        ValueError: tensors of one parameter differ in dtype, or are float8, and none is given to cast to.
    """
    tensors, promises = weights.tensors, {}
    for leaf in weights.table:
        if quantize and is_quantized_kernel(leaf.path):
            stored = np.dtype(np.int8)
            shape = (*leaf.lead, leaf.turned[-1])
            slice_shape = (*(1 for _ in leaf.lead), shape[-1])
            promises[scale_path(leaf.path)] = streaming.Promise(
                shape=shape, dtype=np.dtype(np.float32), slice_shape=slice_shape
            )
        elif dtype is None:
            if any(is_float8(tensors[name]) for name in leaf.names):
                raise ValueError(
                    f"{weights.files[0].path.parent} holds {leaf.names[0]} in float8: give --dtype bfloat16, with "
                    "--quantize int8 if it is to stay small"
                )
            stored = convert.one_dtype(leaf, [tensors[name].dtype for name in leaf.names])
        else:
            stored = np.dtype(dtype)
        promises[leaf.path] = promise_array(leaf, tensors[leaf.names[0]].dtype.itemsize, stored)
    return promises


def promise_array(leaf: names.Leaf, itemsize: int, stored: np.dtype) -> streaming.Promise:
    """What will be written of a parameter; a slice is one published tensor, or a block of a large embedding's rows.

    Args:
        leaf: the parameter.
        itemsize: bytes of a number as published.
        stored: the dtype to write.
    """
    rows = block_rows(leaf.published, itemsize) if leaf.is_as_published else None
    slice_shape = leaf.turned if rows is None else (rows, *leaf.turned[1:])[: len(leaf.turned)]
    return streaming.Promise(shape=leaf.shape, dtype=stored, slice_shape=(1,) * len(leaf.lead) + slice_shape)


def write_network(
    folder: Path, weights: Weights, promises: Promises, progress: Progress, edit: Edit | None = None
) -> dict[str, Any]:
    """Writes one orbax checkpoint; returns its provenance."""
    files: list[dict[str, Any]] = []
    folder.parent.mkdir(parents=True, exist_ok=True)
    streaming.write_checkpoint(folder, promises, _parts(weights, promises, edit or _leave, files, progress))
    dtypes = sorted({promise.dtype.name for promise in promises.values()})
    return {"files": files, "dtypes": dtypes, "aliases": list(weights.aliases)}


def _parts(
    weights: Weights, promises: Promises, edit: Edit, files: list[dict[str, Any]], progress: Progress
) -> Iterator[streaming.Part]:
    """The published tensors in their files' order, turned and with their places; adds the files' records to `files`."""
    place = {name: (leaf, index) for leaf in weights.table for name, index in leaf.slices()}
    in_blocks = {name for name, (leaf, _) in place.items() if leaf.is_as_published} | set(weights.aliases)
    copies = {name: hashlib.sha256() for pair in weights.aliases.items() for name in pair}
    for file in weights.files:
        digest = hashlib.sha256()
        for tensor, row, block in file.stream(digest, in_blocks):
            if tensor.name in copies:
                copies[tensor.name].update(block.reshape(-1).view(np.uint8).data)
            if tensor.name in place:
                leaf, index = place[tensor.name]
                whole = block.shape == tensor.shape
                part = edit(leaf, index, leaf.turn(block)) if whole else block
                if is_quantized_kernel(leaf.path) and scale_path(leaf.path) in promises:
                    part, scale = map(np.asarray, quantize_kernel(part))
                    yield scale_path(leaf.path), index, scale
                at: tuple[int | slice, ...] = index if whole else (*index, slice(row, row + len(block)))
                yield leaf.path, at, part.astype(promises[leaf.path].dtype, copy=False)
            progress(weights.name, block.nbytes)
        files.append({"name": file.path.name, "size": file.size, "sha256": digest.hexdigest()})
        progress(weights.name, file.size - sum(tensor.num_bytes for tensor in file.tensors))
    for alias, name in weights.aliases.items():
        if copies[alias].digest() != copies[name].digest():
            raise ValueError(f"{weights.files[0].path.parent}: {alias} must equal {name}, but does not")


def _leave(leaf: names.Leaf, index: tuple[int, ...], part: np.ndarray) -> np.ndarray:
    return part


def _fold(folds: Sequence[Fold], leaf: names.Leaf, index: tuple[int, ...], part: np.ndarray) -> np.ndarray:
    """One layer's kernel with all adapters added, in float32; anything else as it is."""
    if leaf.path[0] != "blocks" or leaf.path[-1] != "kernel":
        return part
    for adapter, multiplier in folds:
        pair = _read_layer(adapter, leaf.path[:-1], index[0])
        if pair:
            scaled = lora.combine([({"linear": pair}, multiplier)])["linear"]
            part = np.asarray(lora.fold_kernel(jnp.asarray(part, jnp.float32), scaled["down"][0], scaled["up"][0]))
    return part


def _read_layer(adapter: Weights, linear: tuple[str, ...], layer: int) -> Params:
    """What an adapter holds for one linear of one layer, as an adapter of depth 1 in float32; empty where nothing."""
    tensors, pair = adapter.tensors, {}
    for leaf in adapter.table:
        if leaf.path[:-1] == linear:
            part = np.empty((1, *leaf.shape[1:]), np.float32)
            for name, index in leaf.slices():
                if index[0] == layer:
                    part[(0, *index[1:])] = leaf.turn(adapter.files[0].read(tensors[name]))
            pair[leaf.path[-1]] = jnp.asarray(part)
    return pair
