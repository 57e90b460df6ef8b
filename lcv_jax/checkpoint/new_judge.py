"""A converted judge from parameters in memory: one that is to be trained."""

import json
from pathlib import Path

import numpy as np

from lcv_jax.array_types import Params
from lcv_jax.checkpoint import convert, store, streaming
from lcv_jax.checkpoint.conversion import file_record, provenance_record
from lcv_jax.checkpoint.judge_conversion import COMPONENT
from lcv_jax.checkpoint.judge_names import judge_table
from lcv_jax.checkpoint.workspace import workspace
from lcv_jax.models.judges import JudgeConfig


def write_judge(dest: Path, cfg: JudgeConfig, tokenizer: str, params: Params, source: Path) -> None:
    """Writes a folder that `load_judge` reads.

    Args:
        dest: must not exist, or be empty.
        cfg: of the judge.
        tokenizer: the JSON of its tokenizer, with the reward tokens.
        params: stored as they are.
        source: where they come from, for the folder's provenance.

    Raises:
        ValueError: the destination exists, or the parameters do not fit the config.
        OSError: the disk is full.
    """
    arrays = {path: np.asarray(array) for path, array in convert.flatten(params)}
    wanted = {"/".join(leaf.path): leaf.shape for leaf in judge_table(cfg)}
    convert.check_names("the judge", wanted, {"/".join(path): array.shape for path, array in arrays.items()})
    promises = {
        path: streaming.Promise(shape=array.shape, dtype=array.dtype, slice_shape=array.shape)
        for path, array in arrays.items()
    }
    with workspace(dest, sum(promise.num_bytes for promise in promises.values())) as work:
        (work / COMPONENT).mkdir()
        parts = ((path, tuple(slice(0, size) for size in array.shape), array) for path, array in arrays.items())
        streaming.write_checkpoint(work / COMPONENT / "params", promises, parts)
        (work / COMPONENT / "config.json").write_text(json.dumps(cfg.to_json(), indent=2) + "\n")
        path = work / "tokenizer" / "tokenizer.json"
        path.parent.mkdir()
        path.write_text(tokenizer, encoding="utf-8")
        dtypes = sorted({array.dtype.name for array in arrays.values()})
        components = {
            COMPONENT: {"files": [], "dtypes": dtypes, "kind": cfg.kind, "merged": False},
            "tokenizer": {"files": [file_record(path)]},
        }
        record = provenance_record(source, None, components)
        (work / store.PROVENANCE).write_text(json.dumps(record, indent=2) + "\n")
        store.write_checksums(work)
