"""Batches for the trainer, read ahead by grain: batch i is a pure function of the configuration, the data and i.

So resuming is an index; and any number of processes, workers and threads gives the same batches: a process makes its
own rows of each. Which samples those are is decided in plans.py; the sources here fetch them.
"""

import dataclasses
import functools
import hashlib
import json
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lcv_jax.data.captions import CaptionTokenizer, load_tokenizer
from lcv_jax.data.clips import SortedClips, column_values, entry_weights, first_described, sort_clips
from lcv_jax.data.config import DataConfig, LengthShares, Size, as_text, bucket_groups
from lcv_jax.data.degrade import parse_refinement
from lcv_jax.data.encoded import EncodedBucket, EncodedFolder
from lcv_jax.data.held_out import Chosen, clip_of, held_out_clips
from lcv_jax.data.identity import Row, file_rows, without_stat
from lcv_jax.data.manifest import read_manifest
from lcv_jax.data.manifest_config import ManifestConfig
from lcv_jax.data.plans import Choice, Plans
from lcv_jax.data.rows import ClipRows, CropRows, EncodedRows, Source, Tokens, pad_text

MakeRows = Callable[[Mapping[str, Row]], Sequence[Row]]
_END = 2**40  # steps; grain wants a length


@dataclasses.dataclass(frozen=True)
class BatchKind:
    """What a compiled training step depends on, besides shapes."""

    task: str
    """ "t2i", "t2v", "i2v", "vc", "refine", "autoencoder", "pairs", "ratings", "captions" or "grpo"."""
    num_cond_latents: int
    """Latent frames at the front that are given."""


@dataclasses.dataclass
class Batch:
    """This process's rows of a batch.

    Keys of `arrays`: latents_BTHWC, text_BLD, text_mask_BL and for refinement upsampled_BTHWC, from encoded data;
    video_BTHWC, ids_BL, ids_mask_BL and upsampled_video_BTHWC, from clips; video_BTHWC alone for an autoencoder.
    Where captions of some clip begin later than the clip and the objective asks when, caption_start_B: latent frames.
    """

    kind: BatchKind
    arrays: dict[str, np.ndarray]


class Batches:
    """An endless iterator over batches. Made by `open_batches`.

    Attributes:
        constants: arrays of the run: negative_text_1LD and negative_mask_1L, or from clips negative_ids_1L and
            negative_ids_mask_1L; nothing for an autoencoder.
        kinds: every (kind, size) that can come.
        num_clips: of every size.
        quarantined: clips that could not be read so far, or that are too short, with reasons.
        rows: makes the rows that the data consist of, as identity.py compares them.
    """

    def __init__(
        self,
        cfg: DataConfig | ManifestConfig,
        plans: Plans,
        source: Source,
        sizes: Sequence[Any],
        *,
        data_hash: str,
        rows: MakeRows,
        constants: Mapping[str, np.ndarray],
    ):
        self.constants = dict(constants)
        self.kinds = [
            (BatchKind(choice.task, choice.num_cond_latents), sizes[choice.bucket]) for choice in plans.choices
        ]
        self.num_clips = dict.fromkeys(sizes, 0)
        for size, count in zip(sizes, plans.num_records, strict=True):
            self.num_clips[size] += count
        self.quarantined: dict[str, str] = {}
        self.rows = rows
        self._cfg, self._plans, self._source = cfg, plans, source
        self._identity = {"data": data_hash, "seed": plans.seed, "batch_size": plans.batch_size}
        self._step = 0
        self._reader: list[Any] = []  # one, or none yet
        # Also where nobody closes: workers, and memory shared with them, must not outlive this process.
        weakref.finalize(self, _close, self._reader)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if not self._reader:
            self._reader.append(self._read_from(self._step))
        arrays, quarantined = next(self._reader[0])
        # Copied out of memory shared with a worker, which the system would miss if this process ended with it. Sorted,
        # as what went through a worker is.
        shared = self._cfg.workers > 0
        arrays = {name: np.array(array) if shared else array for name, array in sorted(arrays.items())}
        choice = self._plans.choice(self._step)
        self._step += 1
        self.quarantined |= quarantined
        return Batch(BatchKind(choice.task, choice.num_cond_latents), arrays)

    def get_state(self) -> dict[str, Any]:
        """Where the iterator stands, for JSON."""
        return {**self._identity, "step": self._step, "quarantined": self.quarantined}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes where another iterator stood.

        Raises:
            ValueError: that one read other data, or with another seed or batch size: its batches cannot be continued.
        """
        for name, value in self._identity.items():
            if state[name] != value:
                raise ValueError(
                    f"data: the run to resume had {name} = {state[name]}, this one has {value}: its batches cannot be "
                    "continued; give the same, or start a new run from its weights"
                )
        self.close()
        self._step, self.quarantined = int(state["step"]), dict(state["quarantined"])

    def close(self) -> None:
        """Stops reading ahead."""
        _close(self._reader)

    def _read_from(self, step: int) -> Any:
        import grain
        from absl import flags

        cfg = self._cfg
        options = grain.ReadOptions(num_threads=cfg.threads, prefetch_buffer_size=cfg.prefetch if cfg.threads else 0)
        dataset = grain.MapDataset.range(step, _END).map(self._source).to_iter_dataset(options)
        if cfg.workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain asks absl for settings, which a program without absl.app has not
            processes = grain.MultiprocessingOptions(num_workers=cfg.workers, per_worker_buffer_size=cfg.prefetch)
            dataset = dataset.mp_prefetch(processes)
        return iter(dataset)


def _close(reader: list[Any]) -> None:
    while reader:
        reader.pop().close()


def open_batches(
    cfg: DataConfig,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    held_out: bool = False,
    late_captions: bool = False,
) -> Batches:
    """Opens the data of a run.

    Args:
        cfg: what to read.
        batch_size: samples of all processes together.
        seed: of order, tasks, conditions and dropped captions.
        process_index: which rows of each batch to make: the processes' parts in their order are the batch.
        process_count: of all processes.
        held_out: read the clips of `cfg.held_out` instead of the others.
        late_captions: batches say where captions begin that begin later than their clips. Otherwise such clips are for
            continuation, whose condition is what comes before.

    Raises:
        ValueError: no such data, no clip for a task that has a share, or a batch that processes cannot share.
    """
    if batch_size < 1 or batch_size % process_count:
        below = batch_size // process_count * process_count
        works = [size for size in (below, below + process_count) if size > 0]
        raise ValueError(
            f"batch_size {batch_size} cannot be shared by {process_count} processes: "
            f"take {' or '.join(map(str, works))}"
        )
    if not 0 <= seed < 2**64:
        raise ValueError(f"a seed must lie in 0..2**64 - 1, got {seed}")
    per_process = batch_size // process_count
    rows = range(process_index * per_process, (process_index + 1) * per_process)
    opened = _open_encoded if cfg.mode == "encoded" else _open_files
    return opened(cfg, batch_size, seed, rows, held_out=held_out, late_captions=late_captions)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pool:
    """The clips that a batch is drawn from."""

    size: Size
    samples: Any
    """Records or entries, by their number."""
    tasks: Sequence[str]
    """That they can serve."""
    num_latents: int
    caption_start: int = 0
    """The latent frame at which all of their captions begin, if those before are the condition."""
    weights: np.ndarray | None = None


def _open_encoded(
    cfg: DataConfig, batch_size: int, seed: int, rows: range, *, held_out: bool, late_captions: bool
) -> Batches:
    folder = EncodedFolder(cfg.path)
    if folder.longest_text > cfg.max_sequence_length:
        raise ValueError(
            f"{cfg.path} holds captions of {folder.longest_text} tokens: max_sequence_length must be at least that, "
            f"got {cfg.max_sequence_length}"
        )
    buckets = [bucket for bucket in folder.buckets if not cfg.sizes or bucket.size in cfg.sizes]
    absent = set(cfg.sizes) - {bucket.size for bucket in buckets}
    if absent:
        have = ", ".join(f"{as_text(bucket.size)} ({bucket.num_records} clips)" for bucket in folder.buckets)
        raise ValueError(f"{cfg.path} has no clips of {', '.join(map(as_text, sorted(absent)))}; it has {have}")
    folder.check(buckets)
    pools = list(_encoded_pools(cfg, folder, buckets, held_out, apart=folder.late_captions and not late_captions))
    plans = _make_plans(cfg, pools, batch_size, seed)
    negative, mask = pad_text([folder.caption(folder.negative_prompt)], cfg.max_sequence_length)
    sources = [pool.samples for pool in pools]
    source = EncodedRows(cfg, folder, sources, plans, rows, late_captions=folder.late_captions and late_captions)
    constants = {"negative_text_1LD": negative, "negative_mask_1L": mask}
    make_rows = functools.partial(_encoded_rows, folder, buckets)
    sizes = [pool.size for pool in pools]
    return Batches(cfg, plans, source, sizes, data_hash=folder.hash, rows=make_rows, constants=constants)


def _encoded_pools(
    cfg: DataConfig, folder: EncodedFolder, buckets: Sequence[EncodedBucket], held_out: bool, *, apart: bool
) -> Iterator[Pool]:
    """Of each bucket, less the clips that are held out, or more.

    Args:
        apart: clips whose captions begin later are pools of their own.
    """
    facts = [folder.rows(bucket) if cfg.held_out or apart else [] for bucket in buckets]
    kept_apart = held_out_clips((row["id"] for rows in facts for row in rows), cfg.held_out) if cfg.held_out else set()
    for bucket, rows in zip(buckets, facts, strict=True):
        weights = None if cfg.weight_column is None else folder.weights(bucket, cfg.weight_column)
        whole = Pool(
            size=bucket.size,
            samples=folder.source(bucket),
            tasks=bucket.tasks,
            num_latents=bucket.latent_shape[0],
            weights=weights,
        )
        starts = {
            place: row.get("caption_start", 0) if apart else 0
            for place, row in enumerate(rows)
            if not cfg.held_out or (clip_of(row["id"]) in kept_apart) == held_out
        }
        yield from _by_start(whole, starts) if rows else (whole,)


def _by_start(whole: Pool, starts: Mapping[int, int]) -> Iterator[Pool]:
    """A pool of those clips whose captions begin with them, and one, for continuation, of each later beginning.

    Args:
        starts: latent frames at which captions begin, of the clips' places; others are left out.
    """
    places: dict[int, list[int]] = {}
    for place, start in starts.items():
        places.setdefault(start, []).append(place)
    for start, chosen in sorted(places.items()):
        yield dataclasses.replace(
            whole,
            samples=Chosen(whole.samples, chosen),
            tasks=("vc",) if start else whole.tasks,
            caption_start=start,
            weights=None if whole.weights is None else whole.weights[chosen],
        )


def _encoded_rows(folder: EncodedFolder, buckets: Sequence[EncodedBucket], known: Mapping[str, Row]) -> list[Row]:
    """How the data were encoded, and what each record was made of."""
    config: Row = {"id": "the encoding", **folder.index["config"]}
    return [config, *(without_stat(row) for bucket in buckets for row in folder.rows(bucket))]


def _open_files(
    cfg: DataConfig, batch_size: int, seed: int, rows: range, *, held_out: bool, late_captions: bool
) -> Batches:
    autoencoder = cfg.mode == "autoencoder"
    refinements = tuple(map(parse_refinement, cfg.refine))
    groups = bucket_groups(cfg.sizes, cfg.resolutions, cfg.num_frames, cfg.granularity)
    sizes = [size for group in groups for size in group]
    for refinement in refinements:
        for size in sizes:
            refinement.stride(size, cfg.fps)
    tokenizer = None
    if not autoencoder:
        if cfg.tokenizer is None:
            raise ValueError("the mode 'clips' needs data.tokenizer: the converted checkpoint whose tokenizer to use")
        tokenizer = load_tokenizer(cfg.tokenizer / "tokenizer")
    listed = read_manifest(cfg.path, captions=not autoencoder)
    apart = held_out_clips((entry.id for entry in listed), cfg.held_out)
    sorted_clips = sort_clips(cfg, [entry for entry in listed if (entry.id in apart) == held_out], groups)
    pools = list(_file_pools(cfg, sorted_clips, apart=not autoencoder and not late_captions))
    plans = _make_plans(cfg, pools, batch_size, seed)
    sizes, entries = [pool.size for pool in pools], [list(pool.samples) for pool in pools]
    ids = json.dumps([[size, [entry.id for entry in each]] for size, each in sorted_clips.entries.items()])
    data_hash = hashlib.sha256(ids.encode()).hexdigest()
    if cfg.keep_column is not None:
        values = column_values([entry for each in entries for entry in each], cfg.keep_column, cfg.path, "keep_column")
        if set(values) - {0, 1} or not any(values):
            raise ValueError(
                f"{cfg.path}: keep_column {cfg.keep_column!r} must be 1 for some clips and 0 for the others"
            )
    if tokenizer is None:
        source: Source = CropRows(cfg, entries, sizes, plans, rows)
        constants = {}
    else:
        captions = _tokenize(cfg, tokenizer, {entry.id: entry.captions for each in entries for entry in each})
        ids_2L, mask_2L = tokenizer.tokenize(["", cfg.negative_prompt], cfg.max_sequence_length)
        empty = ids_2L[0], mask_2L[0]
        late = late_captions and any(entry.caption_start for each in entries for entry in each)
        more: dict[str, Any] = {"empty": empty, "refinements": refinements, "late_captions": late}
        source = ClipRows(cfg, entries, sizes, plans, rows, captions=captions, **more)
        constants = {"negative_ids_1L": ids_2L[1:], "negative_ids_mask_1L": mask_2L[1:]}
    used = list({entry.id: entry for each in entries for entry in each}.values())
    make_rows = functools.partial(file_rows, used)
    batches = Batches(cfg, plans, source, sizes, data_hash=data_hash, rows=make_rows, constants=constants)
    batches.quarantined = sorted_clips.left_out
    return batches


def _file_pools(cfg: DataConfig, clips: SortedClips, *, apart: bool) -> Iterator[Pool]:
    """Of each bucket; see `_encoded_pools`."""
    for size, entries in clips.entries.items():
        whole = Pool(
            size=size,
            samples=entries,
            tasks=_tasks_of(cfg, size),
            num_latents=(size[0] - 1) // cfg.temporal_factor + 1,
            weights=None if cfg.weight_column is None else entry_weights(entries, cfg.weight_column, cfg.path),
        )
        starts = (first_described(entry, size, cfg.fps, cfg.temporal_factor) if apart else 0 for entry in entries)
        yield from _by_start(whole, dict(enumerate(starts)))


def _tokenize(
    cfg: DataConfig, tokenizer: CaptionTokenizer, captions: Mapping[str, Sequence[str]]
) -> dict[str, list[Tokens]]:
    """Tokens of all captions; one warning tells of all that are cut, here and not from workers at every step."""
    tokens = {}
    with warnings.catch_warnings(record=True) as cut:
        warnings.simplefilter("always")
        for identity, texts in captions.items():
            tokens[identity] = list(zip(*tokenizer.tokenize(texts, cfg.max_sequence_length), strict=True))
    if cut:
        warnings.warn(f"{cfg.path}: {len(cut)} captions are cut; of the first, {cut[0].message}", stacklevel=4)
    return tokens


def _tasks_of(cfg: DataConfig, size: Size) -> Sequence[str]:
    if cfg.mode == "autoencoder":
        return ("autoencoder",)
    if size[0] == 1:
        return ("t2i",)
    return ("t2v", "i2v", "vc", *(("refine",) if cfg.refine else ()))


def _make_plans(cfg: DataConfig, pools: Sequence[Pool], batch_size: int, seed: int) -> Plans:
    """The plans of all batches; warns of pools that are smaller than one, and of clips that serve no task."""
    counts = [len(pool.samples) for pool in pools]
    weights = [pool.weights for pool in pools if pool.weights is not None]
    sizes = [pool.size for pool in pools]
    choices, shares = possible_choices(
        cfg,
        sizes,
        tasks=[pool.tasks for pool in pools],
        num_latents=[pool.num_latents for pool in pools],
        amounts=[float(each.sum()) for each in weights] if weights else list(map(float, counts)),
        starts=[pool.caption_start for pool in pools],
    )
    used = {choice.bucket for choice in choices}
    small = [
        f"{as_text(pool.size)}{f' described from {pool.caption_start} on' if pool.caption_start else ''} ({count})"
        for number, (pool, count) in enumerate(zip(pools, counts, strict=True))
        if number in used and count < batch_size
    ]
    if small and not weights:
        warnings.warn(
            f"fewer clips than the {batch_size} of a batch, which repeats them: {', '.join(small)}", stacklevel=4
        )
    late = sum(count for count, pool in zip(counts, pools, strict=True) if pool.caption_start)
    if late and not cfg.tasks.vc:
        warnings.warn(
            f"{cfg.path}: {late} clips are left out: their captions begin later than the clips (caption_start), which "
            "only continuation trains on, and data.tasks.vc is 0",
            stacklevel=4,
        )
    return Plans(choices, shares, counts, weights or None, batch_size, seed)


def possible_choices(
    cfg: DataConfig,
    sizes: Sequence[Size],
    *,
    tasks: Sequence[Sequence[str]],
    num_latents: Sequence[int],
    amounts: Sequence[float],
    starts: Sequence[int] | None = None,
) -> tuple[list[Choice], list[float]]:
    """All kinds of batches and their probabilities: a task by its share, then a bucket by its amount of clips.

    Args:
        cfg: shares of tasks and of condition lengths.
        sizes: of buckets.
        tasks: that each bucket can serve.
        num_latents: latent frames of each bucket.
        amounts: clips of each bucket, or the sum of their weights.
        starts: latent frames of each bucket before its captions begin, which are then the condition; None: all 0.

    Raises:
        ValueError: a task has a share, and no bucket serves it.
    """
    choices, shares, starts = [], [], starts or [0] * len(sizes)
    wanted = {"autoencoder": 1.0} if cfg.mode == "autoencoder" else cfg.tasks.positive()
    for task, share in wanted.items():
        able = [
            (number, ((start, 1.0),) if start else _lengths(cfg, task, num_latents[number]))
            for number, start in enumerate(starts)
            if task in tasks[number] and amounts[number] > 0
        ]
        able = [(number, lengths) for number, lengths in able if lengths]
        if not able:
            raise ValueError(f"{cfg.path}: {_unable(cfg, task, sizes, num_latents, starts)}")
        total = sum(amounts[number] for number, _ in able)
        for number, lengths in able:
            whole = sum(portion for _, portion in lengths)
            for length, portion in lengths:
                choices.append(Choice(task, length, number))
                shares.append(share * amounts[number] / total * portion / whole)
    return choices, shares


def _lengths(cfg: DataConfig, task: str, num_latents: int) -> LengthShares:
    """Lengths of the condition that leave a frame to be made."""
    by_task = {"i2v": ((1, 1.0),), "vc": cfg.condition_latents, "refine": cfg.refine_condition_latents}
    return tuple(pair for pair in by_task.get(task, ((0, 1.0),)) if pair[0] < num_latents)


def _unable(
    cfg: DataConfig, task: str, sizes: Sequence[Size], num_latents: Sequence[int], starts: Sequence[int]
) -> str:
    have = ", ".join(
        f"{as_text(size)} ({latents} latent frames{f', described from {start} on: for vc alone' if start else ''})"
        for size, latents, start in zip(sizes, num_latents, starts, strict=True)
    )
    advice = {
        "t2i": "images, or lcv_jax.encode --images-from-clips",
        "vc": f"clips longer than one of condition_latents = {[length for length, _ in cfg.condition_latents]}",
        "refine": "the lower resolution that --refine of lcv_jax.encode, or data.refine, adds",
    }.get(task, "clips of several frames")
    return f"the task {task} has a share, but no bucket serves it; it needs {advice}. There are {have}"
