"""A converted folder of a network on Qwen2-VL whose parameters are in memory: a new judge, or a captioner to train."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lcv_jax.array_types import Params
from lcv_jax.checkpoint import convert, store, streaming
from lcv_jax.checkpoint.conversion import file_record, provenance_record
from lcv_jax.checkpoint.names import Table
from lcv_jax.checkpoint.workspace import workspace


def write_new(
    dest: Path,
    component: str,
    config: Mapping[str, Any],
    table: Table,
    params: Params,
    tokenizer: str,
    source: Path,
    **facts: Any,
) -> None:
    """Writes the folder.

    Args:
        dest: must not exist, or be empty.
        component: the network's folder in it.
        config: what its config.json holds.
        table: its parameters.
        params: stored as they are.
        tokenizer: the JSON of its tokenizer.
        source: where the parameters come from, for the folder's provenance.
        facts: of the network, likewise.

    Raises:
        ValueError: the destination exists, or the parameters do not fit the table.
        OSError: the disk is full.
    """
    arrays = {path: np.asarray(array) for path, array in convert.flatten(params)}
    wanted = {"/".join(leaf.path): leaf.shape for leaf in table}
    convert.check_names(component, wanted, {"/".join(path): array.shape for path, array in arrays.items()})
    promises = {
        path: streaming.Promise(shape=array.shape, dtype=array.dtype, slice_shape=array.shape)
        for path, array in arrays.items()
    }
    with workspace(dest, sum(promise.num_bytes for promise in promises.values())) as work:
        (work / component).mkdir()
        parts = ((path, tuple(slice(0, size) for size in array.shape), array) for path, array in arrays.items())
        streaming.write_checkpoint(work / component / "params", promises, parts)
        (work / component / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        path = work / "tokenizer" / "tokenizer.json"
        path.parent.mkdir()
        path.write_text(tokenizer, encoding="utf-8")
        dtypes = sorted({array.dtype.name for array in arrays.values()})
        components = {
            component: {"files": [], "dtypes": dtypes, "aliases": [], **facts},
            "tokenizer": {"files": [file_record(path)]},
        }
        record = provenance_record(source, None, components)
        (work / store.PROVENANCE).write_text(json.dumps(record, indent=2) + "\n")
        store.write_checksums(work)
