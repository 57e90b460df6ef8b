"""Encodes a manifest's clips ahead of training: `python -m lcv_jax.data.encode MANIFEST CHECKPOINT OUT ...`.

    python -m lcv_jax.data.encode clips.jsonl weights encoded --sizes 17,64,64 --fps 8
    python -m lcv_jax.data.encode clips.parquet weights encoded --resolutions 480p 720p --num-frames 93 --shard 3/64

Killed at any time, the same command goes on where it was. What the folder holds is said in encoded.py.
"""

import collections
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lcv_jax.array_types import Array
from lcv_jax.command_line import mistakes_in_one_line
from lcv_jax.data.clips import Groups, TooShortError, nothing_left, read_into_bucket
from lcv_jax.data.config import Size, as_text, bucket_groups
from lcv_jax.data.degrade import Refinement, parse_refinement, pick
from lcv_jax.data.encoded import FORMAT, INDEX, VERSION, ShardWriter, pack_record, write_json, write_whole
from lcv_jax.data.manifest import Entry, read_manifest

LOG_SECONDS = 30
"""Between two lines of progress, where there is no terminal for a live bar."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Encode clips and captions ahead of training. Killed at any time, the same command goes on where it was."""

    manifest: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MANIFEST")]
    """Clips and captions, .jsonl, .csv or .parquet: columns path, caption, and others of manifest.py."""
    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """Folder that convert_torch_weights.py wrote: its autoencoder, text encoder and tokenizer are used."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """Folder to write, or to go on with."""
    sizes: tuple[str, ...] = ()
    """Buckets, each FRAMES,HEIGHT,WIDTH."""
    resolutions: tuple[str, ...] = ()
    """Or the published buckets of 480p, 720p or both."""
    num_frames: tuple[int, ...] = (93,)
    """Frames of clips in the buckets of `resolutions`."""
    granularity: int = 32
    """Heights and widths of `resolutions` are multiples of this many pixels."""
    fps: float = 15.0
    """Frames a second that clips are resampled to."""
    images_from_clips: int = 0
    """Also take this many single frames of every clip, at even distances, to train text to image. 1: its first."""
    refine: tuple[str, ...] = ()
    """Also encode a degraded version, upsampled, to train refinement: HEIGHT,WIDTH,FPS or RESOLUTION,FPS of that
    version. Of several, each clip gets one."""
    negative_prompt: str = ""
    """The general one that guidance is distilled with; its embedding is stored."""
    max_sequence_length: int = 512
    """Tokens of a caption; longer ones are cut."""
    latents_dtype: Literal["float32", "bfloat16"] = "float32"
    """What latents are stored as."""
    text_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """What embeddings of captions are stored as."""
    dtype: Literal["stored", "float32", "bfloat16"] = "stored"
    """What the networks compute in; "stored" is what the checkpoint was converted to."""
    vae_tiles: bool = False
    """Encode in overlapping tiles: less memory, nearly the same result."""
    records_per_shard: int = 64
    """Clips of a file: what is lost, of each bucket, when the run is killed."""
    shard: str = "0/1"
    """Which part of the clips this process takes, PART/PARTS, from 0. The last to end writes the index."""
    readers: int = 2
    """Threads that decode clips."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be encoded, checked."""

    arguments: Arguments
    groups: Groups
    refinements: tuple[Refinement, ...]
    part: int
    parts: int

    def record_ids(self, entry: Entry) -> list[str]:
        """The ids of all records that a clip gives."""
        count = 0 if entry.is_image else self.arguments.images_from_clips
        return [entry.id, *(f"{entry.id}#image{number}" for number in range(count))]

    def refinement(self, entry: Entry) -> Refinement | None:
        """What a clip is to be refined from."""
        if not self.refinements or entry.is_image:
            return None
        return pick(self.refinements, entry.id)


@dataclasses.dataclass
class Clip:
    """A clip that is read, still uint8."""

    size: Size
    video_THWC: np.ndarray
    small_THWC: np.ndarray | None


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    config = (tyro.conf.FlagCreatePairsOff,)
    chosen = tyro.cli(Arguments, args=arguments, prog="python -m lcv_jax.data.encode", config=config)
    with mistakes_in_one_line("interrupted; the same command goes on"):
        encode(chosen)


def encode(arguments: Arguments) -> None:
    """Does what the command line asks for.

    Raises:
        ValueError: a user's mistake, or no clip that can be used.
        OSError: a file that cannot be read or written.
    """
    job = _check(arguments)
    entries = read_manifest(arguments.manifest)
    networks = Networks(arguments)
    config = _config(job, networks.provenance)
    folder = arguments.out
    with _locked(folder, job):
        _check_config(folder, config)
        state = PartState(folder, job)
        mine = entries[job.part :: job.parts]
        if not state.done_file.is_file():
            _write_special_captions(folder, job, networks)
            _encode_part(job, networks, state, mine)
            state.finish(len(mine))
        print(state.summary())
    _write_index(folder, job, config, networks.provenance)


def _check(arguments: Arguments) -> Job:
    sizes = []
    for text in arguments.sizes:
        try:
            frames, height, width = map(int, text.split(","))
        except ValueError:
            raise ValueError(f"sizes are FRAMES,HEIGHT,WIDTH such as 93,480,832; got {text!r}") from None
        sizes.append((frames, height, width))
    if not sizes and not arguments.resolutions:
        raise ValueError("give --sizes FRAMES,HEIGHT,WIDTH ... or --resolutions 480p ...")
    groups = bucket_groups(tuple(sizes), arguments.resolutions, arguments.num_frames, arguments.granularity)
    refinements = tuple(map(parse_refinement, arguments.refine))
    for refinement in refinements:
        for size in (size for group in groups for size in group):
            refinement.stride(size, arguments.fps)
    try:
        part, parts = map(int, arguments.shard.split("/"))
    except ValueError:
        raise ValueError(f"shard is PART/PARTS such as 0/8, got {arguments.shard!r}") from None
    if not 0 <= part < parts:
        raise ValueError(f"shard: parts are numbered from 0 to PARTS - 1, got {arguments.shard}")
    for name, least in (("records_per_shard", 1), ("readers", 1), ("images_from_clips", 0), ("max_sequence_length", 2)):
        if getattr(arguments, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(arguments, name)}")
    if not arguments.fps > 0:
        raise ValueError(f"fps must be above 0, got {arguments.fps}")
    return Job(arguments, groups, refinements, part, parts)


class Networks:
    """The autoencoder and the text encoder of a checkpoint; imported and loaded when first used."""

    def __init__(self, arguments: Arguments):
        # The package lcv_jax.data knows no networks; this command line does.
        from lcv_jax.pipeline import load_pipeline

        self._arguments = arguments
        dtype = None if arguments.dtype == "stored" else arguments.dtype
        self._pipeline = load_pipeline(arguments.checkpoint, dtype=dtype, vae_tiles=arguments.vae_tiles)
        self.provenance: dict[str, Any] = self._pipeline.provenance

    def check(self, groups: Groups) -> None:
        """Raises ValueError for buckets that the autoencoder cannot encode to whole latents."""
        factor = self._pipeline.vae.cfg.spatial_factor
        for size in (size for group in groups for size in group):
            if size[1] % factor or size[2] % factor:
                raise ValueError(f"sizes: height and width must be multiples of {factor}, got {as_text(size)}")

    @functools.lru_cache(maxsize=16)  # noqa: B019  (a clip and single frames of it have the same captions)
    def text(self, caption: str) -> np.ndarray:
        """The embedding L D of a caption, as long as its tokens."""
        text_1LD, mask_1L = self._pipeline.encode_text([caption], self._arguments.max_sequence_length)
        length = int(np.asarray(mask_1L).sum())
        return np.asarray(text_1LD)[0, :length].astype(np.dtype(self._arguments.text_dtype))

    def latents(self, video_THWC: np.ndarray | Array) -> np.ndarray:
        """Normalised latents of a clip in [0, 1] or 0..255: the posterior's mode."""
        import jax.numpy as jnp

        from lcv_jax.denoise import encode_frames

        video = jnp.asarray(video_THWC, jnp.float32) / (255 if video_THWC.dtype == np.uint8 else 1)
        method = "tiled_encode" if self._arguments.vae_tiles else "encode"
        vae, params = self._pipeline.vae, self._pipeline.params("vae")
        return np.asarray(encode_frames(vae, params, video[None], None, method))[0].astype(
            self._arguments.latents_dtype
        )

    def upsampled_latents(self, small_THWC: np.ndarray, size: Size) -> np.ndarray:
        """Latents of a small clip, upsampled as refinement does it."""
        import jax.numpy as jnp

        from lcv_jax.denoise import upsample_clip

        return self.latents(upsample_clip(jnp.asarray(small_THWC, jnp.float32) / 255, *size))


class PartState:
    """What this process's part has on disk: shards, and clips that were left out."""

    def __init__(self, folder: Path, job: Job):
        self.shards, self._job = folder / "shards", job
        self.shards.mkdir(exist_ok=True)
        self.done_file = folder / f"done-{job.part}-of-{job.parts}.json"
        self._quarantine_file = folder / f"quarantine-{job.part}.json"
        self.encoded: set[str] = set()
        self.left_out: dict[str, dict[str, Any]] = {"corrupt": {}, "too_short": {}}
        self._writers: dict[Size, ShardWriter] = {}
        self._numbers: collections.Counter[Size] = collections.Counter()
        if self._quarantine_file.is_file():
            self.left_out = json.loads(self._quarantine_file.read_text())
        self._forget_unfinished()
        for facts in self._finished():
            self.encoded |= {row["id"] for row in facts["records"]}
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
        if len(writer.rows) == self._job.arguments.records_per_shard:
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

    def _forget_unfinished(self) -> None:
        """Half shards. One that lacks its .json alone will be written again, under its name."""
        for path in self.shards.glob(f".{self._job.part:04d}-*.partial*"):
            path.unlink()

    def _finished(self) -> Iterator[dict[str, Any]]:
        for path in self.shards.glob(f"{self._job.part:04d}-*.json"):
            yield json.loads(path.read_text())


def _encode_part(job: Job, networks: Networks, state: PartState, entries: list[Entry]) -> None:
    networks.check(job.groups)
    skipped = state.skipped
    left = [
        entry for entry in entries if entry.id not in skipped and not state.encoded.issuperset(job.record_ids(entry))
    ]
    if len(left) < len(entries):
        print(f"going on: {len(entries) - len(left)} of {len(entries)} clips are done")
    read = functools.partial(_read, job)
    with _progress(len(left)) as advance:
        for entry, future in _ahead(read, left, job.arguments.readers):
            try:
                clips = future.result()
            except TooShortError as error:
                state.leave_out("too_short", entry.id, error.num_frames)
            except (OSError, ValueError) as error:
                state.leave_out("corrupt", entry.id, " ".join(str(error).split()))
            else:
                for identity, clip in clips.items():
                    if identity not in state.encoded:
                        record = _record(networks, entry, identity, clip)
                        state.add(clip.size, record, id=identity, **_facts(networks, entry, clip))
            advance()


def _read(job: Job, entry: Entry) -> dict[str, Clip]:
    """A clip and, where wanted, single frames of it, by the ids of their records."""
    identity, *image_ids = job.record_ids(entry)
    size, video_THWC = read_into_bucket(entry, job.groups, job.arguments.fps)
    refinement = job.refinement(entry)
    small_THWC = None
    if refinement is not None and size[0] > 1:
        small_THWC = refinement.degrade(video_THWC, job.arguments.fps, entry.id)
    clips = {identity: Clip(size, video_THWC, small_THWC)}
    # The first, and then evenly: a single one is the first.
    places = np.linspace(0, len(video_THWC), len(image_ids), endpoint=False).astype(int)
    for image_id, place in zip(image_ids, places, strict=True):
        clips[image_id] = Clip((1, *size[1:]), video_THWC[place : place + 1], None)
    return clips


def _record(networks: Networks, entry: Entry, identity: str, clip: Clip) -> bytes:
    arrays = {"latents_THWC": networks.latents(clip.video_THWC)}
    if clip.small_THWC is not None:
        arrays["upsampled_THWC"] = networks.upsampled_latents(clip.small_THWC, clip.size)
    arrays |= {f"text_{number}_LD": networks.text(caption) for number, caption in enumerate(entry.captions)}
    return pack_record(arrays, id=identity, captions=entry.captions)


def _facts(networks: Networks, entry: Entry, clip: Clip) -> dict[str, Any]:
    """What the file beside a shard tells about a record."""
    longest = max(len(networks.text(caption)) for caption in entry.captions)
    return {"numbers": entry.numbers, "text": longest, "refine": clip.small_THWC is not None}


def _ahead(read: Any, entries: list[Entry], readers: int) -> Iterator[tuple[Entry, Future]]:
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


def _config(job: Job, provenance: dict[str, Any]) -> dict[str, Any]:
    """All that decides what is written, and nothing else."""
    arguments = job.arguments
    fields = (
        "fps", "images_from_clips", "refine", "negative_prompt", "max_sequence_length", "latents_dtype", "text_dtype",
        "dtype", "vae_tiles", "records_per_shard",
    )  # fmt: skip
    components = {name: provenance["components"].get(name) for name in ("vae", "text_encoder", "tokenizer")}
    config = {
        "manifest": hashlib.sha256(arguments.manifest.read_bytes()).hexdigest(),
        "checkpoint": hashlib.sha256(json.dumps(components, sort_keys=True).encode()).hexdigest(),
        "buckets": job.groups,
        "parts": job.parts,
        **{name: getattr(arguments, name) for name in fields},
    }
    return json.loads(json.dumps(config))


def _check_config(folder: Path, config: dict[str, Any]) -> None:
    """Writes what is encoded here, or compares it with what was begun."""
    path = folder / "config.json"
    if not path.is_file():
        write_json(path, config)
        return
    begun = json.loads(path.read_text())
    differing = sorted(name for name in begun.keys() | config.keys() if begun.get(name) != config.get(name))
    if differing:
        shown = "; ".join(f"{name} was {_short(begun.get(name))}, is {_short(config.get(name))}" for name in differing)
        raise ValueError(f"{folder} was begun otherwise: {shown}. Give the same, or another folder")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


@contextlib.contextmanager
def _locked(folder: Path, job: Job) -> Iterator[None]:
    """Keeps other processes from the same part; the system lets go of it however this one ends."""
    if folder.is_dir() and any(folder.iterdir()) and not any(folder.glob("part-*.lock")):
        raise ValueError(f"{folder} holds other things: give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"part-{job.part}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another process is encoding part {job.part} of {job.parts}") from None
        yield


def _write_special_captions(folder: Path, job: Job, networks: Networks) -> None:
    captions = {"empty": networks.text(""), "negative": networks.text(job.arguments.negative_prompt)}
    write_whole(folder / "captions.bin", pack_record(captions))


def _write_index(folder: Path, job: Job, config: dict[str, Any], provenance: dict[str, Any]) -> None:
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
        facts = json.loads(path.read_text())
        shards.setdefault(tuple(facts["size"]), []).append((f"shards/{path.stem}.array_record", facts))
    if not shards:
        raise ValueError(_nothing(folder, job))
    totals = [json.loads(path.read_text()) for path in done]
    ids = [[size, [row["id"] for _, facts in files for row in facts["records"]]] for size, files in shards.items()]
    index = {
        "format": FORMAT,
        "version": VERSION,
        "hash": hashlib.sha256(json.dumps([config, ids], sort_keys=True).encode()).hexdigest(),
        "config": config,
        "checkpoint": provenance,
        "negative_prompt": job.arguments.negative_prompt,
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

    from lcv_jax.data.encoded import unpack_record

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
    left_out = [json.loads(path.read_text()) for path in sorted(folder.glob("quarantine-*.json"))]
    short = {identity: count for part in left_out for identity, count in part["too_short"].items()}
    corrupt = {identity: reason for part in left_out for identity, reason in part["corrupt"].items()}
    return nothing_left(job.groups, short, corrupt, job.arguments.fps)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Any]:
    """A live bar, or a line now and then."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(total)
        return
    columns = (TextColumn("encoding"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.update(task, advance=1)


def _lines(total: int) -> Any:
    began = shown = time.monotonic()
    count = 0

    def advance() -> None:
        nonlocal shown, count
        count += 1
        now = time.monotonic()
        if now - shown > LOG_SECONDS:
            shown = now
            left = (now - began) / count * (total - count)
            print(f"{count} of {total} clips, about {left:.0f} s left", file=sys.stderr)

    return advance


if __name__ == "__main__":
    main()
