"""Encoded clips as files: records, shards that are whole or not there, and the folder that encode.py writes.

    config.json               how clips are encoded; a run that wants something else is refused
    manifest.jsonl.gz         the rows of the manifest, likewise
    shards/PART-SIZE-NNNN.array_record, .json     records, and what they are: ids, captions, hashes of files
    captions.bin              embeddings of the empty and the negative prompt
    quarantine-PART.json      clips left out, with reasons
    index.json                all of the above, once every part is done

A shard counts when its .json is there, which is written after it; all names appear by renaming what is complete.
"""

import dataclasses
import json
import os
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (numpy learns bfloat16 from it)
import numpy as np

from lcv_jax.data.config import Size, as_text
from lcv_jax.own_files import naming_write_errors, partial_path, write_json
from lcv_jax.user_files import read_json, reading

INDEX = "index.json"
FORMAT, VERSION = "lcv_jax encoded clips", 1
_OPENED_AT_ONCE = 16
_AGAIN = "delete it with its .json and its part's done-*.json, and encode again"
# Latents are as good as random: compressing them only takes time. A group is what one read fetches.
WRITER_OPTIONS = "group_size:1,uncompressed"


def pack_record(arrays: Mapping[str, np.ndarray], **facts: Any) -> bytes:
    """Arrays and facts (JSON) as bytes: the header's length, the header, the arrays one after another."""
    header = {**facts, "arrays": {name: [array.dtype.name, list(array.shape)] for name, array in arrays.items()}}
    text = json.dumps(header).encode()
    return b"".join([struct.pack("<I", len(text)), text, *(np.ascontiguousarray(a).tobytes() for a in arrays.values())])


def unpack_record(record: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays, as views of the bytes, and the facts."""
    end = 4 + struct.unpack_from("<I", record)[0]
    facts = json.loads(record[4:end])
    arrays = {}
    for name, (dtype, shape) in facts.pop("arrays").items():
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(record, np.dtype(dtype), count, end).reshape(shape)
        end += count * arrays[name].itemsize
    return arrays, facts


class ShardWriter:
    """One shard: `add` records, then `finish`. Until then it is a hidden file that nobody reads.

    Args:
        path: its name, ending in .array_record.
        facts: of all of its records, for the file beside it.
    """

    def __init__(self, path: Path, **facts: Any):
        from array_record.python.array_record_module import ArrayRecordWriter

        self.path, self.facts = path, facts
        self.rows: list[dict[str, Any]] = []
        self._partial = partial_path(path)
        with naming_write_errors(path):
            self._writer = ArrayRecordWriter(str(self._partial), WRITER_OPTIONS)

    def add(self, record: bytes, **row: Any) -> None:
        """Appends a record; `row` is what the file beside the shard tells about it."""
        with naming_write_errors(self.path):
            self._writer.write(record)
        self.rows.append(row)

    def finish(self) -> None:
        """Closes the shard and gives it its name."""
        with naming_write_errors(self.path):
            self._writer.close()
            with open(self._partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(self._partial, self.path)
        write_json(self.path.with_suffix(".json"), {**self.facts, "records": self.rows})


@dataclasses.dataclass(frozen=True)
class EncodedBucket:
    """The records of one size."""

    size: Size
    latent_shape: tuple[int, int, int, int]
    tasks: tuple[str, ...]
    shards: tuple[tuple[str, int], ...]
    """Files, relative to the folder, each with its number of records."""

    @property
    def num_records(self) -> int:
        return sum(count for _, count in self.shards)

    def shard_of(self, record: int) -> str:
        """The file that a record is in."""
        for name, count in self.shards:
            if record < count:
                return name
            record -= count
        raise IndexError(record)


class Records:
    """The bytes of a bucket's records, by their number."""

    def __init__(self, folder: Path, bucket: EncodedBucket):
        import grain

        self._folder, self._bucket = folder, bucket
        # Counts in the names save opening every shard.
        self._source = grain.sources.ArrayRecordDataSource(
            [f"{folder / name}[0:{count}]" for name, count in bucket.shards]
        )

    def __len__(self) -> int:
        return self._bucket.num_records

    def __getitem__(self, record: int) -> bytes:
        with reading(self._folder / self._bucket.shard_of(record), _AGAIN):
            return self._source[record]


class EncodedFolder:
    """A folder that encode.py has finished.

    Raises:
        ValueError: no such folder, or one that is not finished.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.index = _read_index(folder)
        with reading(folder / INDEX, "encode again"):
            self.hash = str(self.index["hash"])
            self.longest_text = int(self.index["longest_text"])
            self.negative_prompt = str(self.index["negative_prompt"])
            self.late_captions = bool(self.index.get("late_captions"))
            self.buckets = [
                EncodedBucket(
                    size=tuple(bucket["size"]),
                    latent_shape=tuple(bucket["latent_shape"]),
                    tasks=tuple(bucket["tasks"]),
                    shards=tuple((str(shard["file"]), int(shard["num_records"])) for shard in bucket["shards"]),
                )
                for bucket in self.index["buckets"]
            ]

    def rows(self, bucket: EncodedBucket) -> list[dict[str, Any]]:
        """What is known of a bucket's records: id, and the numbers of the manifest's other columns."""
        files = [(self.folder / name).with_suffix(".json") for name, _ in bucket.shards]
        return [row for file in files for row in read_json(file, advice="encode again")["records"]]

    def check(self, buckets: Sequence[EncodedBucket]) -> None:
        """Opens all shards of some buckets, of which no record is read.

        Raises:
            ValueError: a shard is missing or damaged, or has another number of records than the index says.
        """
        shards = [shard for bucket in buckets for shard in bucket.shards]
        with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
            for _ in pool.map(lambda shard: self._check_shard(*shard), shards):
                pass

    def _check_shard(self, name: str, count: int) -> None:
        from array_record.python.array_record_module import ArrayRecordReader

        path = self.folder / name
        with reading(path, _AGAIN):
            if not path.is_file():
                raise ValueError("the shard is missing")
            reader = ArrayRecordReader(str(path))
            try:
                found = reader.num_records() if reader.ok() else 0
            finally:
                reader.close()
            facts = path.with_suffix(".json")
            if found != count or len(read_json(facts, advice=_AGAIN)["records"]) != count:
                raise ValueError(
                    f"the shard is damaged: expected {count} records, here and in {facts.name}, got {found}"
                )

    def weights(self, bucket: EncodedBucket, column: str) -> np.ndarray:
        """A column of weights.

        Raises:
            ValueError: the manifest has no such column, or it is no weight.
        """
        rows = self.rows(bucket)
        missing = [row["id"] for row in rows if column not in row["numbers"]]
        if missing:
            have = sorted({name for row in rows for name in row["numbers"]})
            raise ValueError(
                f"{self.folder}: weight_column {column!r} is not given for {len(missing)} clips of "
                f"{as_text(bucket.size)}, the first is {missing[0]}; numbers of the manifest: {', '.join(have) or '-'}"
            )
        return checked_weights([row["numbers"][column] for row in rows], column, str(self.folder))

    def source(self, bucket: EncodedBucket) -> "Records":
        """Random access to the bytes of a bucket's records."""
        return Records(self.folder, bucket)

    def caption(self, caption: str) -> np.ndarray:
        """The embedding L D of the empty or the negative prompt, as long as its tokens."""
        path = self.folder / "captions.bin"
        with reading(path, "encode again"):
            arrays, _ = unpack_record(path.read_bytes())
            return arrays["empty" if caption == "" else "negative"]


def checked_weights(values: list[float], column: str, where: str) -> np.ndarray:
    """Weights as numbers.

    Raises:
        ValueError: one is negative or not finite, or all are 0.
    """
    weights = np.asarray(values, np.float64)
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise ValueError(f"{where}: weight_column {column!r} must be finite, at least 0, and above for some clip")
    return weights


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder; wanted one of python -m lcv_jax.encode")
        if (folder / "config.json").is_file():
            raise ValueError(f"{folder} is not encoded to its end: run the same lcv_jax.encode again, it goes on")
        raise ValueError(f"{folder} holds no encoded clips: it has no {INDEX}; wanted one of lcv_jax.encode")
    with reading(path, "encode again"):
        index = read_json(path)
        found = index["format"], index["version"]
    if found != (FORMAT, VERSION):
        raise ValueError(f"{folder}: got {found[0]} {found[1]}, wanted {FORMAT} {VERSION}; encode again")
    return index
