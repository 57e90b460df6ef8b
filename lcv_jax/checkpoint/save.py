"""Trained networks as a converted folder: what was trained is written, the rest is taken over from another one.

Stacked layers leave the devices one at a time. Of several processes all call it, and process 0 writes.
"""

import datetime
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lcv_jax.array_types import Params
from lcv_jax.checkpoint import convert, names, store, streaming
from lcv_jax.checkpoint.checksums import CHECKSUMS
from lcv_jax.checkpoint.judge_conversion import COMPONENT, load_judge_config
from lcv_jax.checkpoint.judge_names import judge_table
from lcv_jax.checkpoint.workspace import workspace
from lcv_jax.config import PublishedConfig
from lcv_jax.user_files import read_json

SCHEDULER = "scheduler/scheduler_config.json"


def save_trained(
    base: Path,
    dest: Path,
    *,
    networks: Mapping[str, Params],
    configs: Mapping[str, PublishedConfig],
    adapters: Mapping[str, Params],
    folded: Sequence[str] = (),
    scheduler: Mapping[str, Any] | None = None,
    dtype: Any = None,
    made_by: Mapping[str, Any],
) -> None:
    """Writes a converted folder.

    Args:
        base: the converted folder that training started from; its files are linked where the file system can.
        dest: must not exist, or be empty.
        networks: parameters by network, those that were trained.
        configs: theirs, where they are not the base's.
        adapters: by name, trees as models/lora.py takes them; one that the base has by the same name is replaced.
        folded: adapters that are now part of the transformer, besides those of the base.
        scheduler: fields of its config that are not the base's.
        dtype: what parameters are cast to; None keeps theirs.
        made_by: kept in the folder's provenance.

    Raises:
        ValueError: the destination exists, the base is no converted folder or damaged, or the parameters do not fit the
            configs.
        OSError: the disk is full.
    """
    provenance = store.read_provenance(base)
    store.verify(base)  # or damaged files would get checksums of their own
    components = dict(provenance["components"])
    trained = {**{("network", name): tree for name, tree in networks.items()}}
    trained |= {("adapter", name): tree for name, tree in adapters.items()}
    promises = {place: _promises(tree, dtype) for place, tree in trained.items()}
    if jax.process_index() != 0:
        for place, tree in trained.items():
            for _ in _parts(tree, promises[place]):
                pass  # every process takes part in bringing a layer to process 0
        return
    with workspace(dest, sum(promise.num_bytes for tree in promises.values() for promise in tree.values())) as work:
        _link(base, work, {*networks, *(f"adapters/{name}" for name in adapters), store.PROVENANCE, CHECKSUMS})
        if scheduler and (work / SCHEDULER).is_file():
            (work / SCHEDULER).unlink()  # the file is a link to the base's
            fields = {**read_json(base / SCHEDULER), **scheduler}
            (work / SCHEDULER).write_text(json.dumps(fields, indent=2) + "\n")
        for name, params in networks.items():
            cfg = configs.get(name)
            _check(name, params, _table(base, name, cfg))
            (work / name).mkdir()
            content = _write(work / name / "params", params, promises["network", name])
            if cfg is not None:
                published = read_json(base / name / "config.json")
                (work / name / "config.json").write_text(json.dumps({**published, **cfg.to_json()}, indent=2) + "\n")
            else:
                shutil.copyfile(base / name / "config.json", work / name / "config.json")
            components[name] = {**_kept(components, name), **_record(promises["network", name], content)}
        if "dit" in networks:
            before = provenance["components"].get("dit", {}).get("folded", [])
            components["dit"]["folded"] = [*before, *({"name": name} for name in folded)]
        for name, adapter in adapters.items():
            shapes = {path: array.shape for path, array in convert.flatten(adapter)}
            _check(name, adapter, names.adapter_table(shapes, store.load_config(base, "dit")))
            (work / "adapters").mkdir(exist_ok=True)
            content = _write(work / "adapters" / name, adapter, promises["adapter", name])
            shutil.copyfile(base / "dit" / "config.json", work / "adapters" / "config.json")
            components["lora"] = {**components.get("lora", {}), name: _record(promises["adapter", name], content)}
        written = {
            **provenance,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "source": str(base),
            "versions": store.package_versions(),
            "components": components,
            "training": [*provenance.get("training", []), dict(made_by)],
        }
        (work / store.PROVENANCE).write_text(json.dumps(written, indent=2) + "\n")
        store.write_checksums(work)


def _promises(tree: Params, dtype: Any) -> dict[tuple[str, ...], streaming.Promise]:
    """What will be written of each array; stacked layers are slices, so that one layer at a time leaves the device."""
    return {
        path: streaming.Promise(
            shape=array.shape,
            dtype=np.dtype(dtype or array.dtype),
            slice_shape=(1, *array.shape[1:]) if _stacked(path) else array.shape,
        )
        for path, array in convert.flatten(tree)
    }


def _stacked(path: tuple[str, ...]) -> bool:
    return any(part in ("blocks", "layers") for part in path[:-1]) or path[:2] == ("encoder", "block")


def _table(base: Path, name: str, cfg: PublishedConfig | None) -> names.Table:
    if name == COMPONENT:
        return judge_table(load_judge_config(base))
    return convert.NETWORKS[name].table(cfg or store.load_config(base, name))


def _kept(components: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What the record of a judge keeps of the one before."""
    return {"kind": components[name]["kind"]} if name == COMPONENT else {}


def _write(folder: Path, tree: Params, promises: Mapping[tuple[str, ...], streaming.Promise]) -> str:
    """Writes one orbax checkpoint; returns the SHA-256 of its arrays, hashed as they pass."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()

    def hashed() -> Iterator[streaming.Part]:
        for path, index, part in _parts(tree, promises):
            digest.update(f"{path} {part.shape} {part.dtype.name} ".encode())
            digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
            yield path, index, part

    streaming.write_checkpoint(folder, promises, hashed())
    return digest.hexdigest()


def _parts(tree: Params, promises: Mapping[tuple[str, ...], streaming.Promise]) -> Iterator[streaming.Part]:
    for path, array in convert.flatten(tree):
        dtype = promises[path].dtype
        if not _stacked(path):
            yield path, tuple(slice(0, size) for size in array.shape), _fetch(array).astype(dtype)
            continue
        for layer in range(array.shape[0]):
            index = (slice(layer, layer + 1), *(slice(0, size) for size in array.shape[1:]))
            yield path, index, _fetch(array[layer : layer + 1]).astype(dtype)


def _fetch(array: Any) -> np.ndarray:
    """An array on the host, from whatever devices of whatever processes hold it."""
    if isinstance(array, jax.Array) and isinstance(array.sharding, NamedSharding) and not array.is_fully_addressable:
        array = jax.jit(lambda x: x, out_shardings=NamedSharding(array.sharding.mesh, PartitionSpec()))(array)
        array = array.addressable_data(0)
    return np.asarray(jax.device_get(array))


def _check(name: str, tree: Params, table: names.Table) -> None:
    wanted = {"/".join(leaf.path): leaf.shape for leaf in table}
    convert.check_names(name, wanted, {"/".join(path): array.shape for path, array in convert.flatten(tree)})


def _record(promises: Mapping[tuple[str, ...], streaming.Promise], content: str) -> dict[str, Any]:
    dtypes = sorted({promise.dtype.name for promise in promises.values()})
    return {"files": [], "dtypes": dtypes, "aliases": [], "sha256": content}


def _link(source: Path, dest: Path, without: set[str]) -> None:
    """The files of a folder, but for some of its paths, as links to the same bytes, or copies on another disk."""
    for path in sorted(source.rglob("*")):
        place = path.relative_to(source)
        if not path.is_file() or any(place.is_relative_to(name) for name in without):
            continue
        target = dest / place
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)
