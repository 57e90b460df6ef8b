"""From a published reward model to a converted folder, and from that to a network's parameters.

    lcv_jax.json                      format and provenance, see store.py
    judge/config.json  judge/params/  settings and templates; an orbax checkpoint
    tokenizer/tokenizer.json          with the reward tokens

LoRA is merged in float32, and merged weights are stored in float32 unless a dtype is asked for: in bfloat16 the sum
would lose most of what was added.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lcv_jax.array_types import Params
from lcv_jax.checkpoint import convert, names, store, streaming
from lcv_jax.checkpoint.conversion import Progress, file_record, promise_array, provenance_record
from lcv_jax.checkpoint.judge_names import judge_table, plain_name
from lcv_jax.checkpoint.judge_source import PublishedJudge
from lcv_jax.checkpoint.workspace import workspace
from lcv_jax.models.judges import HPSV3, JudgeConfig

COMPONENT = "judge"
HEAD = "rm_head"


def convert_judge(
    published: PublishedJudge,
    dest: Path,
    *,
    dtype: Any = None,
    progress: Progress = lambda name, num_bytes: None,
) -> None:
    """Writes the converted folder.

    Args:
        published: what to convert.
        dest: the folder to write; must not exist, or be empty.
        dtype: what the parameters are cast to, but for HPSv3's head, which is float32; None keeps each as it is.
        progress: is told the bytes that were read.

    Raises:
        ValueError: the destination exists.
        OSError: the disk is full.
    """
    promises = {
        leaf.path: promise_array(
            leaf, published.tensors[leaf.names[0]][1].dtype.itemsize, _stored_dtype(published, leaf, dtype)
        )
        for leaf in published.table
    }
    with workspace(dest, sum(promise.num_bytes for promise in promises.values())) as work:
        files: list[dict[str, Any]] = []
        (work / COMPONENT).mkdir()
        streaming.write_checkpoint(work / COMPONENT / "params", promises, _parts(published, promises, files, progress))
        (work / COMPONENT / "config.json").write_text(json.dumps(published.cfg.to_json(), indent=2) + "\n")
        tokenizer = work / "tokenizer" / "tokenizer.json"
        tokenizer.parent.mkdir()
        tokenizer.write_text(published.tokenizer, encoding="utf-8")
        dtypes = sorted({promise.dtype.name for promise in promises.values()})
        components = {
            COMPONENT: {
                "files": files,
                "dtypes": dtypes,
                "kind": published.cfg.kind,
                "merged": bool(published.adapters),
            },
            "tokenizer": {"files": [file_record(tokenizer)]},
        }
        record = provenance_record(published.folder, dtype, components)
        (work / store.PROVENANCE).write_text(json.dumps(record, indent=2) + "\n")
        store.write_checksums(work)


def _stored_dtype(published: PublishedJudge, leaf: names.Leaf, dtype: Any) -> np.dtype:
    found = [published.tensors[name][1].dtype for name in leaf.names]
    if any(name in published.adapters for name in leaf.names):
        found = [np.dtype(np.float32)]
    if dtype is None or _is_float32_head(published.cfg.kind, leaf.path):
        return convert.one_dtype(leaf, found)
    return np.dtype(dtype)


def _is_float32_head(kind: str, path: tuple[str, ...]) -> bool:
    return kind == HPSV3 and path[0].startswith(HEAD)


def _parts(
    published: PublishedJudge,
    promises: Mapping[tuple[str, ...], streaming.Promise],
    files: list[dict[str, Any]],
    progress: Progress,
) -> Iterator[streaming.Part]:
    """The published tensors in their files' order, merged and turned; adds the files' records to `files`."""
    place = {name: (leaf, index) for leaf in published.table for name, index in leaf.slices()}
    for file in published.files:
        digest = hashlib.sha256()
        in_blocks = {
            tensor.name
            for name, (_, tensor) in published.tensors.items()
            if name in place and place[name][0].is_as_published
        }
        for tensor, row, block in file.stream(digest, in_blocks):
            name = plain_name(tensor.name)
            if name in place and published.tensors[name] == (file, tensor):
                leaf, index = place[name]
                whole = block.shape == tensor.shape
                at: tuple[int | slice, ...] = index if whole else (*index, slice(row, row + len(block)))
                part = leaf.turn(_merged(published, name, block)) if whole else block
                yield leaf.path, at, part.astype(promises[leaf.path].dtype, copy=False)
            progress(COMPONENT, block.nbytes)
        files.append({"name": file.path.name, "size": file.size, "sha256": digest.hexdigest()})
        progress(COMPONENT, file.size - sum(tensor.num_bytes for tensor in file.tensors))


def _merged(published: PublishedJudge, name: str, weight: np.ndarray) -> np.ndarray:
    """A weight with its low-rank factors added, in float32."""
    if name not in published.adapters:
        return weight
    down, up = (file.read(tensor).astype(np.float32) for file, tensor in published.adapters[name])
    return weight.astype(np.float32) + np.float32(published.lora_scale) * (up @ down)


def load_judge_config(folder: str | Path) -> JudgeConfig:
    """The config of a converted judge.

    Raises:
        ValueError: no converted folder, or one of something else.
    """
    folder = Path(folder)
    components = store.read_provenance(folder)["components"]
    if COMPONENT not in components:
        raise ValueError(
            f"{folder} is no judge: it has {', '.join(components)}; convert one with "
            "convert_torch_weights.py SOURCE DEST --judge hpsv3|videoreward --templates FILE"
        )
    store.verify(folder, f"{COMPONENT}/config.json")
    path = folder / COMPONENT / "config.json"
    try:
        return JudgeConfig.from_json(json.loads(path.read_text()))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {error}; convert again") from None


def load_judge_params(
    folder: str | Path,
    cfg: JudgeConfig,
    dtype: Any = None,
    sharding: jax.sharding.Sharding | store.ShardingRule | None = None,
    keep: Callable[[tuple[str, ...]], bool] = lambda path: True,
) -> Params:
    """A converted judge's parameters on devices.

    HPSv3's head is loaded in float32 whatever the dtype.

    Args:
        folder, cfg: of `load_judge_config`.
        dtype, sharding: as in `store.load_component`.
        keep: which parameters are read, by their paths.
    """
    table = judge_table(cfg)

    def dtype_of(path: tuple[str, ...]) -> Any:
        return np.float32 if _is_float32_head(cfg.kind, path) else dtype

    return store.load_params(Path(folder), f"{COMPONENT}/params", lambda shapes: table, dtype_of, sharding, keep)
