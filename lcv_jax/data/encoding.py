"""The folder that `encode` fills: which clips are done, which were left out, and the index of all parts.

What the files hold is described in encoded.py. Networks are the caller's.
"""

import collections
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from lcv_jax.data.clips import Groups, first_described, nothing_left, read_into_bucket
from lcv_jax.data.config import Size, as_text
from lcv_jax.data.degrade import Refinement, pick
from lcv_jax.data.encoded import FORMAT, INDEX, VERSION, ShardWriter, unpack_record
from lcv_jax.data.identity import check_rows, file_facts, manifest_row, without_stat, write_rows
from lcv_jax.data.manifest import Entry
from lcv_jax.own_files import differences, write_json
from lcv_jax.user_files import read_json

MANIFEST = "manifest.jsonl.gz"
"""Rows of the manifest that encoding was begun with."""


@dataclasses.dataclass
class Clip:
    """A clip that is read, still uint8."""

    size: Size
    video_THWC: np.ndarray
    small_THWC: np.ndarray | None
    file: dict[str, Any]
    """What its file is, as identity.py describes it."""
    caption_start: int = 0
    """The first latent frame that its captions describe."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What is encoded, and which part of it by this process."""

    groups: Groups
    fps: float
    """Frames per second that clips are resampled to."""
    images_from_clips: int = 0
    """Single frames of every clip that are encoded too."""
    refinements: tuple[Refinement, ...] = ()
    """Lower resolutions to refine from; each clip gets one."""
    degraded: bool = True
    """Those are made worse by degrade.py, not only smaller."""
    records_per_shard: int = 64
    part: int = 0
    parts: int = 1

    def record_ids(self, entry: Entry) -> list[str]:
        """The ids of all records of a clip."""
        count = 0 if entry.is_image or entry.caption_start else self.images_from_clips
        return [entry.id, *(f"{entry.id}#image{number}" for number in range(count))]

    def read(self, entry: Entry) -> dict[str, Clip]:
        """A clip and its single frames, by the ids of their records."""
        identity, *image_ids = self.record_ids(entry)
        file = file_facts(entry.path)
        size, video_THWC = read_into_bucket(entry, self.groups, self.fps)
        small_THWC = None
        if self.refinements and size[0] > 1:
            refinement = pick(self.refinements, entry.id)
            if self.degraded:
                small_THWC = refinement.degrade(video_THWC, self.fps, entry.id)
            else:
                small_THWC = refinement.shrink(video_THWC, self.fps)
        clips = {identity: Clip(size, video_THWC, small_THWC, file, first_described(entry, size, self.fps))}
        # Evenly spaced from the first frame on, so that a single one is the first.
        places = np.linspace(0, len(video_THWC), len(image_ids), endpoint=False).astype(int)
        for image_id, place in zip(image_ids, places, strict=True):
            clips[image_id] = Clip((1, *size[1:]), video_THWC[place : place + 1], None, file)
        return clips


class PartState:
    """What this process's part has on disk: shards, and clips that were left out."""

    def __init__(self, folder: Path, job: Job):
        self.shards, self._job = folder / "shards", job
        self.shards.mkdir(exist_ok=True)
        self.done_file = folder / f"done-{job.part}-of-{job.parts}.json"
        self._quarantine_file = folder / f"quarantine-{job.part}.json"
        self.encoded: set[str] = set()
        self.files: dict[str, dict[str, Any]] = {}
        """What the files were that records were made of, by the records' ids."""
        self.left_out: dict[str, dict[str, Any]] = {"corrupt": {}, "too_short": {}}
        self._writers: dict[Size, ShardWriter] = {}
        self._numbers: collections.Counter[Size] = collections.Counter()
        if self._quarantine_file.is_file():
            self.left_out = read_json(self._quarantine_file)
        _remove_unfinished(folder, job)
        for facts in self._finished():
            self.encoded |= {row["id"] for row in facts["records"]}
            self.files |= {row["id"]: row for row in facts["records"]}
            self._numbers[tuple(facts["size"])] += 1

    @property
    def skipped(self) -> set[str]:
        """Clips that were left out for good."""
        return {identity for kind in self.left_out.values() for identity in kind}

    def add(self, size: Size, record: bytes, **row: Any) -> None:
        """Appends a record to its bucket's open shard, which is closed when it is full."""
        if size not in self._writers:
            name = f"{self._job.part:04d}-{as_text(size)}-{self._numbers[size]:05d}.array_record"
            self._writers[size] = ShardWriter(self.shards / name, size=size, part=self._job.part)
            self._numbers[size] += 1
        writer = self._writers[size]
        writer.add(record, **row)
        self.encoded.add(row["id"])
        if len(writer.rows) == self._job.records_per_shard:
            self._close(size)

    def leave_out(self, kind: str, identity: str, reason: Any) -> None:
        """Notes a clip that is not encoded; written with the next shard, and found again if killed before."""
        self.left_out[kind][identity] = reason

    def finish(self, num_clips: int) -> None:
        """Closes all shards and says that the part is done."""
        for size in list(self._writers):
            self._close(size)
        write_json(self._quarantine_file, self.left_out)
        write_json(self.done_file, {"clips": num_clips, **{kind: len(ids) for kind, ids in self.left_out.items()}})

    def summary(self) -> str:
        """What became of the part's clips."""
        corrupt, short = self.left_out["corrupt"], self.left_out["too_short"]
        lines = [f"part {self._job.part} of {self._job.parts}: {len(self.encoded)} records"]
        if corrupt:
            first = next(iter(corrupt.items()))
            lines.append(f"{len(corrupt)} clips quarantined, such as {first[0]}: {first[1]}")
        if short:
            lines.append(f"{len(short)} clips too short for every bucket")
        if corrupt or short:
            lines.append(f"all are in {self._quarantine_file}; delete it and {self.done_file.name} to try them again")
        return "; ".join(lines)

    def _close(self, size: Size) -> None:
        self._writers.pop(size).finish()
        write_json(self._quarantine_file, self.left_out)

    def _finished(self) -> Iterator[dict[str, Any]]:
        for path in self.shards.glob(f"{self._job.part:04d}-*.json"):
            yield read_json(path)


def read_ahead(
    read: Callable[[Entry], dict[str, Clip]], entries: list[Entry], readers: int
) -> Iterator[tuple[Entry, Future]]:
    """Clips in their order, of which the next few are being read."""
    waiting: collections.deque[tuple[Entry, Future]] = collections.deque()
    with ThreadPoolExecutor(readers) as pool:
        try:
            for entry in entries:
                waiting.append((entry, pool.submit(read, entry)))
                if len(waiting) > 2 * readers:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def check_config(folder: Path, config: dict[str, Any]) -> None:
    """Writes what is encoded here, or compares it with what was begun."""
    path = folder / "config.json"
    if not path.is_file():
        write_json(path, config)
        return
    if differing := differences(read_json(path), config):
        raise ValueError(f"{folder} was begun otherwise: {differing}. Give the same, or another folder")


def check_manifest(folder: Path, entries: Sequence[Entry]) -> None:
    """Writes the manifest's rows, or compares them with those that were begun with.

    Raises:
        ValueError: they differ; what differs is named.
    """
    if rows := check_rows(folder / MANIFEST, lambda known: [manifest_row(entry) for entry in entries], str(folder)):
        write_rows(folder / MANIFEST, rows)


def check_files(folder: Path, state: PartState, entries: Sequence[Entry]) -> None:
    """Compares the files of clips that are encoded already with what they were.

    Raises:
        ValueError: one has other content; it is named.
    """
    done = [entry for entry in entries if entry.id in state.files]
    with ThreadPoolExecutor(8) as pool:
        now = pool.map(lambda entry: file_facts(entry.path, state.files[entry.id]), done)
        changed = [
            str(entry.path)
            for entry, facts in zip(done, now, strict=True)
            if facts["sha256"] not in (None, state.files[entry.id].get("sha256"))
        ]
    if changed:
        raise ValueError(
            f"{folder}: {len(changed)} files have other content than when they were encoded, such as {changed[0]}: "
            "put the old files back, or encode into another folder"
        )


@contextlib.contextmanager
def locked(folder: Path, job: Job) -> Iterator[None]:
    """Keeps other processes from the same part; the system lets go of it however this one ends.

    If this one ends with an error, its unfinished shards are removed; and if nothing has been encoded by any, all files
    that it wrote: another command may follow.
    """
    if folder.is_dir() and any(folder.iterdir()) and not any(folder.glob("part-*.lock")):
        raise ValueError(f"{folder} holds other things: give another folder")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"part-{job.part}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another process is encoding part {job.part} of {job.parts}") from None
        try:
            yield
        except BaseException as error:
            _remove_unfinished(folder, job)
            if isinstance(error, Exception):
                _remove_if_nothing_encoded(folder, job, made)
            raise


def _remove_unfinished(folder: Path, job: Job) -> None:
    """Removes a part's half shards. One that lacks its .json alone will be written again, under its name."""
    for path in (folder / "shards").glob(f".{job.part:04d}-*.partial"):
        path.unlink()


def _remove_if_nothing_encoded(folder: Path, job: Job, made: list[Path]) -> None:
    """Removes what a part without a shard wrote, unless other parts are there too."""
    lock = folder / f"part-{job.part}.lock"
    if any((folder / "shards").glob("*.json")) or [*folder.glob("part-*.lock")] != [lock]:
        return
    shutil.rmtree(folder / "shards", ignore_errors=True)
    of_part = (f"done-{job.part}-of-{job.parts}.json", f"quarantine-{job.part}.json")
    own = (*of_part, "config.json", MANIFEST, "captions.bin")
    for path in (*(folder / name for name in own), lock):
        path.unlink(missing_ok=True)
    for path in made:
        with contextlib.suppress(OSError):  # something else is in it
            path.rmdir()


def write_index(
    folder: Path, job: Job, config: dict[str, Any], provenance: dict[str, Any], negative_prompt: str
) -> None:
    """Writes the index if all parts are done; those that end at once write the same.

    Raises:
        ValueError: there is nothing to index.
    """
    done = [folder / f"done-{part}-of-{job.parts}.json" for part in range(job.parts)]
    missing = sum(not path.is_file() for path in done)
    if missing:
        print(f"{missing} of {job.parts} parts are not done yet")
        return
    shards: dict[Size, list[tuple[str, dict[str, Any]]]] = {}
    for path in sorted((folder / "shards").glob("*.json")):
        facts = read_json(path)
        shards.setdefault(tuple(facts["size"]), []).append((f"shards/{path.stem}.array_record", facts))
    if not shards:
        raise ValueError(_nothing(folder, job))
    totals = [read_json(path) for path in done]
    rows = [
        [size, [without_stat(row) for _, facts in files for row in facts["records"]]] for size, files in shards.items()
    ]
    index = {
        "format": FORMAT,
        "version": VERSION,
        "hash": hashlib.sha256(json.dumps([config, rows], sort_keys=True).encode()).hexdigest(),
        "config": config,
        "checkpoint": provenance,
        "negative_prompt": negative_prompt,
        "late_captions": any(
            row.get("caption_start") for files in shards.values() for _, facts in files for row in facts["records"]
        ),
        "longest_text": max(row["text"] for files in shards.values() for _, facts in files for row in facts["records"]),
        **{name: sum(total[name] for total in totals) for name in ("clips", "corrupt", "too_short")},
        "buckets": [_index_bucket(folder, size, files) for size, files in sorted(shards.items())],
    }
    write_json(folder / INDEX, index)
    counts = ", ".join(
        f"{as_text(size)}: {sum(len(f['records']) for _, f in files)}" for size, files in sorted(shards.items())
    )
    print(
        f"{folder}: {counts}; of {index['clips']} clips {index['corrupt']} quarantined, {index['too_short']} too short"
    )


def _index_bucket(folder: Path, size: Size, files: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(folder / files[0][0]))
    arrays, _ = unpack_record(reader.read([0])[0])
    reader.close()
    tasks = ["t2i"] if size[0] == 1 else ["t2v", "i2v", "vc"]
    if all(row["refine"] for _, facts in files for row in facts["records"]):
        tasks.append("refine")
    return {
        "size": size,
        "latent_shape": arrays["latents_THWC"].shape,
        "tasks": tasks,
        "num_records": sum(len(facts["records"]) for _, facts in files),
        "shards": [{"file": name, "num_records": len(facts["records"])} for name, facts in files],
    }


def _nothing(folder: Path, job: Job) -> str:
    """Why there is no record at all."""
    left_out = [read_json(path) for path in sorted(folder.glob("quarantine-*.json"))]
    short = {identity: count for part in left_out for identity, count in part["too_short"].items()}
    corrupt = {identity: reason for part in left_out for identity, reason in part["corrupt"].items()}
    return nothing_left(job.groups, short, corrupt, job.fps)
