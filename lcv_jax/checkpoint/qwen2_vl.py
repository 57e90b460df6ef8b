"""A published folder of Qwen2-VL, the captioner, to a converted folder and back.

published    config.json  model*.safetensors  tokenizer.json and other small files, side by side
converted    qwen2_vl/config.json  qwen2_vl/params/  tokenizer/ with the small files
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from lcv_jax.checkpoint import convert, names, store
from lcv_jax.checkpoint.conversion import Progress, file_record, promise_arrays, provenance_record, write_network
from lcv_jax.checkpoint.export import Converted, stored_network, write_stored
from lcv_jax.checkpoint.judge_names import CAPTIONER_ALIASES, plain_name
from lcv_jax.checkpoint.published import Published, Weights
from lcv_jax.checkpoint.safetensors_files import SafetensorsFile, open_folder, shapes
from lcv_jax.checkpoint.workspace import copy_folder, workspace
from lcv_jax.config import Qwen2VLConfig

COMPONENT = "qwen2_vl"
TOKENIZER = "tokenizer.json"
_SMALL = (".json", ".txt", ".jinja")
"""Files that are kept beside the weights."""


def is_qwen2_vl(folder: Path) -> bool:
    """Whether a folder says that it is a published Qwen2-VL."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return found.get("model_type") == Qwen2VLConfig.pinned["model_type"]
    except (OSError, ValueError, AttributeError):
        return False


def is_converted(folder: Path) -> bool:
    """Whether a folder is a converted Qwen2-VL."""
    return (folder / store.PROVENANCE).is_file() and COMPONENT in store.read_provenance(folder)["components"]


def open_qwen2_vl(folder: Path) -> Published:
    """Reads the config and headers of a published folder.

    Raises:
        ValueError: something is missing or damaged, or does not fit its config.
    """
    cfg = Qwen2VLConfig.read(folder / "config.json")
    if not (folder / TOKENIZER).is_file():
        raise ValueError(f"{folder} has no {TOKENIZER}")
    network = convert.NETWORKS[COMPONENT]
    files, table = [_with_plain_names(file) for file in open_folder(folder)], network.table(cfg)
    found = shapes(files)
    may = CAPTIONER_ALIASES if cfg.tie_word_embeddings else {}
    convert.check_names(f"{network.title} in {folder}", names.published_shapes(table), found, may)
    aliases = {alias: name for alias, name in may.items() if alias in found}
    weights = Weights(name=COMPONENT, files=files, table=table, aliases=aliases)
    return Published(folder=folder, configs={COMPONENT: cfg}, networks={COMPONENT: weights}, adapters={}, copied=())


def _with_plain_names(file: SafetensorsFile) -> SafetensorsFile:
    tensors = tuple(dataclasses.replace(tensor, name=plain_name(tensor.name)) for tensor in file.tensors)
    return dataclasses.replace(file, tensors=tensors)


def convert_qwen2_vl(
    published: Published, dest: Path, *, dtype: Any = None, progress: Progress = lambda name, num_bytes: None
) -> None:
    """Writes the converted folder; arguments and errors are those of `conversion.convert_checkpoint`."""
    weights = published.networks[COMPONENT]
    promises = promise_arrays(weights, dtype)
    with workspace(dest, sum(promise.num_bytes for promise in promises.values())) as work:
        component = write_network(work / COMPONENT / "params", weights, promises, progress)
        shutil.copyfile(published.folder / "config.json", work / COMPONENT / "config.json")
        (work / "tokenizer").mkdir()
        small = [path for path in sorted(published.folder.iterdir()) if _is_small(path)]
        for path in small:
            shutil.copyfile(path, work / "tokenizer" / path.name)
        components = {COMPONENT: component, "tokenizer": {"files": [file_record(path) for path in small]}}
        record = provenance_record(published.folder, dtype, components)
        (work / store.PROVENANCE).write_text(json.dumps(record, indent=2) + "\n")
        store.write_checksums(work)


def _is_small(path: Path) -> bool:
    others = path.name == "config.json" or path.name.endswith(".safetensors.index.json")
    return path.is_file() and path.suffix in _SMALL and not others


def open_converted_qwen2_vl(folder: Path) -> Converted:
    """Opens a converted folder to be exported.

    Raises:
        ValueError: it is damaged.
    """
    store.verify(folder)
    return Converted(folder=folder, networks=[stored_network(folder, COMPONENT)], adapters=(), copied=())


def export_qwen2_vl(
    converted: Converted,
    dest: Path,
    *,
    max_shard_bytes: int = 5 * 10**9,
    progress: Progress = lambda name, num_bytes: None,
) -> None:
    """Writes the published layout; arguments and errors are those of `export.export_checkpoint`."""
    (network,) = converted.networks
    with workspace(dest, sum(converted.sizes.values())) as work:
        write_stored(network, work, "model", max_shard_bytes, progress)
        shutil.copyfile(converted.folder / COMPONENT / "config.json", work / "config.json")
        copy_folder(converted.folder / "tokenizer", work)
