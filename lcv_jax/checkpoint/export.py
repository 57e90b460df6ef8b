"""From a converted folder back to the published layout, every tensor bit-equal in the dtype in which it is stored."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from lcv_jax.checkpoint import convert, names, reading, store
from lcv_jax.checkpoint.published import COMPONENTS, COPIED, NETWORKS, choose
from lcv_jax.checkpoint.safetensors_files import (
    Planned,
    plan_shards,
    published_order,
    row_blocks,
    write_index,
    write_safetensors,
)
from lcv_jax.checkpoint.workspace import copy_folder, workspace
from lcv_jax.config import DiTConfig

STEMS = {"dit": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
"""What the published files of each network are called."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredWeights:
    """One network or adapter of a converted folder."""

    name: str
    arrays: Mapping[tuple[str, ...], ts.TensorStore]
    table: names.Table
    aliases: Mapping[str, str]

    def plan(self) -> list[Planned]:
        """The published tensors, layer after layer."""
        plan = {
            name: Planned(name=name, dtype=self.arrays[leaf.path].dtype.numpy_dtype, shape=leaf.published)
            for leaf in self.table
            for name in leaf.names
        }
        plan |= {alias: dataclasses.replace(plan[name], name=alias) for alias, name in self.aliases.items()}
        return [plan[name] for name in sorted(plan, key=published_order)]

    def blocks(self, tensors: Sequence[Planned]) -> Iterator[np.ndarray]:
        """The tensors' values in order, large ones in blocks of rows."""
        place = {name: (leaf, index) for leaf in self.table for name, index in leaf.slices()}
        reads: list[Callable[[], ts.Future]] = []
        turns: list[Callable[[np.ndarray], np.ndarray]] = []
        for tensor in tensors:
            leaf, index = place[self.aliases.get(tensor.name, tensor.name)]
            array = self.arrays[leaf.path]
            if leaf.is_as_published:
                for row, shape in row_blocks(leaf.published, tensor.dtype.itemsize):
                    rows = (slice(row, row + shape[0]),) if shape else ()
                    reads.append(_read(array, (*index, *rows)))
                    turns.append(np.asarray)
            else:
                reads.append(_read(array, index))
                turns.append(leaf.turn_back)
        for turn, part in zip(turns, reading.read_ahead(reads), strict=True):
            yield turn(part)


def _read(array: ts.TensorStore, index: tuple[Any, ...]) -> Callable[[], ts.Future]:
    return lambda: array[index].read()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Converted:
    """A converted folder, opened to be exported."""

    folder: Path
    networks: Sequence[StoredWeights]
    adapters: Sequence[StoredWeights]
    copied: Sequence[str]

    @property
    def sizes(self) -> dict[str, int]:
        """The bytes of each network's and adapter's tensors."""
        weights = [*self.networks, *self.adapters]
        return {stored.name: sum(tensor.num_bytes for tensor in stored.plan()) for stored in weights}


def open_converted(folder: Path, components: Sequence[str] | None = None) -> Converted:
    """Reads what a converted folder holds.

    Raises:
        ValueError: no converted folder, a damaged one, or one without a component that is asked for.
    """
    had = store.read_provenance(folder)["components"]
    store.verify(folder)
    wanted = choose(components, [name for name in COMPONENTS if name in had])
    if "dit" in wanted:
        store.check_unquantized(folder, "turning back into the published layout")
    networks, adapters = [], []
    for name in wanted:
        if name in NETWORKS:
            networks.append(stored_network(folder, name))
    for name in had.get("lora", ()) if "lora" in wanted else ():
        arrays = reading.open_arrays(folder / "adapters" / name)
        cfg = DiTConfig.read(folder / "adapters" / "config.json")
        table = names.adapter_table({path: array.shape for path, array in arrays.items()}, cfg)
        adapters.append(_stored(name, arrays, table, {}))
    copied = [name for name in wanted if name in COPIED]
    return Converted(folder=folder, networks=networks, adapters=adapters, copied=copied)


def stored_network(folder: Path, name: str) -> StoredWeights:
    """A network of a converted folder."""
    network = convert.NETWORKS[name]
    stored = store.read_provenance(folder)["components"][name]["aliases"]
    table = network.table(store.load_config(folder, name))
    arrays = reading.open_arrays(folder / name / "params")
    return _stored(name, arrays, table, {alias: network.aliases[alias] for alias in stored})


def _stored(
    name: str, arrays: Mapping[tuple[str, ...], ts.TensorStore], table: names.Table, aliases: Mapping[str, str]
) -> StoredWeights:
    wanted = {"/".join(leaf.path): leaf.shape for leaf in table}
    convert.check_names(name, wanted, {"/".join(path): array.shape for path, array in arrays.items()})
    return StoredWeights(name=name, arrays=arrays, table=table, aliases=aliases)


def export_checkpoint(
    converted: Converted,
    dest: Path,
    *,
    max_shard_bytes: int = 5 * 10**9,
    progress: Callable[[str, int], None] = lambda name, num_bytes: None,
) -> None:
    """Writes the published layout.

    Args:
        converted: what to export.
        dest: the folder to write; must not exist, or be empty.
        max_shard_bytes: networks above this size are split into several files with an index.
        progress: is told a network's or adapter's name and how many more of its bytes were written.

    Raises:
        ValueError: the destination exists, or the converted folder is damaged.
        OSError: the disk is full.
    """
    with workspace(dest, sum(converted.sizes.values())) as work:
        for stored in converted.networks:
            write_stored(stored, work / stored.name, STEMS[stored.name], max_shard_bytes, progress)
            shutil.copyfile(converted.folder / stored.name / "config.json", work / stored.name / "config.json")
        for stored in converted.adapters:
            write_stored(stored, work / "lora", stored.name, None, progress)
        for name in converted.copied:
            copy_folder(converted.folder / name, work / name)


def write_stored(
    stored: StoredWeights,
    folder: Path,
    stem: str,
    max_shard_bytes: int | None,
    progress: Callable[[str, int], None],
) -> None:
    """Writes safetensors files STEM*.safetensors, with an index if they are several."""
    folder.mkdir(exist_ok=True)
    plan = stored.plan()
    shards = {f"{stem}.safetensors": plan} if max_shard_bytes is None else plan_shards(plan, stem, max_shard_bytes)
    for name, tensors in shards.items():
        write_safetensors(folder / name, tensors, _watched(stored, tensors, progress))
    write_index(folder, stem, shards)


def _watched(
    stored: StoredWeights, tensors: Sequence[Planned], progress: Callable[[str, int], None]
) -> Iterator[np.ndarray]:
    for block in stored.blocks(tensors):
        yield block
        progress(stored.name, block.nbytes)
