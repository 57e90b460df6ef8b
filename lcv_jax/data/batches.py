"""Batches for the trainer, read ahead by grain: batch i is a pure function of the configuration, the data and i.

So resuming is an index; and any number of processes, workers and threads gives the same batches: a process makes its
own rows of each. Which samples those are is decided in plans.py; the sources here fetch them.
"""

import dataclasses
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lcv_jax.data.config import DataConfig, LengthShares, as_text
from lcv_jax.data.encoded import EncodedFolder, unpack_record
from lcv_jax.data.plans import Choice, Plans

_END = 2**40  # steps; grain wants a length


@dataclasses.dataclass(frozen=True)
class BatchKind:
    """What a compiled training step depends on, besides shapes."""

    task: str
    """ "t2i", "t2v", "i2v", "vc", "refine" or "autoencoder"."""
    num_cond_latents: int
    """Latent frames at the front that are given."""


@dataclasses.dataclass
class Batch:
    """This process's rows of a batch.

    Keys of `arrays`: latents_BTHWC, text_BLD, text_mask_BL and for refinement upsampled_BTHWC, from encoded data;
    video_BTHWC, ids_BL, ids_mask_BL and upsampled_video_BTHWC, from clips; video_BTHWC alone for an autoencoder.
    """

    kind: BatchKind
    arrays: dict[str, np.ndarray]


class Source(Protocol):
    """Fetches rows; goes to worker processes by pickling."""

    def __call__(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """A batch's arrays, and the clips that could not be read for it, with reasons."""


class Batches:
    """An endless iterator over batches. Made by `open_batches`.

    Attributes:
        constants: arrays of the run: negative_text_1LD and negative_mask_1L, or from clips negative_ids_1L and
            negative_ids_mask_1L; nothing for an autoencoder.
        quarantined: clips that could not be read so far, with reasons.
        kinds: every (kind, size) that can come.
    """

    def __init__(
        self,
        cfg: DataConfig,
        plans: Plans,
        source: Source,
        *,
        data_hash: str,
        constants: Mapping[str, np.ndarray],
        kinds: Sequence[tuple[BatchKind, tuple[int, int, int]]],
        quarantined: Mapping[str, str],
    ):
        self.constants, self.kinds, self.quarantined = dict(constants), list(kinds), dict(quarantined)
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
        if self._cfg.workers:
            # Out of memory shared with a worker, which the system would miss when this process ends holding a batch.
            arrays = {name: np.array(array) for name, array in arrays.items()}
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
    cfg: DataConfig, *, batch_size: int, seed: int, process_index: int = 0, process_count: int = 1
) -> Batches:
    """Opens the data of a run.

    Args:
        cfg: what to read.
        batch_size: samples of all processes together.
        seed: of order, tasks, conditions and dropped captions.
        process_index: which rows of each batch to make: the processes' parts in their order are the batch.
        process_count: of all processes.

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
    return _open_encoded(cfg, batch_size, seed, rows)


def _open_encoded(cfg: DataConfig, batch_size: int, seed: int, rows: range) -> Batches:
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
    weights = None
    if cfg.weight_column is not None:
        weights = [folder.weights(bucket, cfg.weight_column) for bucket in buckets]
    sizes = [bucket.size for bucket in buckets]
    choices, shares = possible_choices(
        cfg,
        sizes,
        tasks=[bucket.tasks for bucket in buckets],
        num_latents=[bucket.latent_shape[0] for bucket in buckets],
        amounts=[bucket.num_records for bucket in buckets] if weights is None else [sum(each) for each in weights],
    )
    counts = [bucket.num_records for bucket in buckets]
    plans = Plans(choices, shares, counts, weights, batch_size, seed)
    _warn_of_small_buckets(plans, sizes, weighted=weights is not None)
    text_LD = folder.caption(folder.negative_prompt)
    negative, mask = pad_text([text_LD], cfg.max_sequence_length)
    return Batches(
        cfg,
        plans,
        EncodedRows(cfg, folder, [folder.source(bucket) for bucket in buckets], plans, rows),
        data_hash=folder.hash,
        constants={"negative_text_1LD": negative, "negative_mask_1L": mask},
        kinds=[(BatchKind(choice.task, choice.num_cond_latents), sizes[choice.bucket]) for choice in choices],
        quarantined={},
    )


class EncodedRows:
    """Rows of encoded clips."""

    def __init__(self, cfg: DataConfig, folder: EncodedFolder, sources: Sequence[Any], plans: Plans, rows: range):
        self._cfg, self._sources, self._plans, self._rows = cfg, sources, plans, rows
        self._empty_LD = folder.caption("")

    def __call__(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """The arrays of a step; nothing can be quarantined, as encoding has read every clip."""
        choice = self._plans.choice(step)
        records = self._plans.records(step)
        latents, upsampled, texts = [], [], []
        for row in self._rows:
            arrays, _ = unpack_record(self._sources[choice.bucket][int(records[row])])
            latents.append(arrays["latents_THWC"])
            if choice.task == "refine":
                upsampled.append(arrays["upsampled_THWC"])
            captions = [array for name, array in arrays.items() if name.startswith("text_")]
            place = draw_caption(self._plans.row_generator(step, row), len(captions), self._cfg.caption_dropout)
            texts.append(self._empty_LD if place is None else captions[place])
        text_BLD, text_mask_BL = pad_text(texts, self._cfg.max_sequence_length)
        batch = {"latents_BTHWC": np.stack(latents), "text_BLD": text_BLD, "text_mask_BL": text_mask_BL}
        if upsampled:
            batch["upsampled_BTHWC"] = np.stack(upsampled)
        return batch, {}


def draw_caption(generator: np.random.Generator, num_captions: int, dropout: float) -> int | None:
    """Which of its captions a sample comes with; None: none."""
    dropped, place = generator.random(2)
    return None if dropped < dropout else int(place * num_captions)


def pad_text(texts: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings L D of different lengths as one array B L D, and a mask B L of their tokens."""
    text_BLD = np.zeros((len(texts), length, texts[0].shape[1]), texts[0].dtype)
    mask_BL = np.zeros((len(texts), length), bool)
    for row, text_LD in enumerate(texts):
        text_BLD[row, : len(text_LD)] = text_LD
        mask_BL[row, : len(text_LD)] = True
    return text_BLD, mask_BL


def possible_choices(
    cfg: DataConfig,
    sizes: Sequence[tuple[int, int, int]],
    *,
    tasks: Sequence[Sequence[str]],
    num_latents: Sequence[int],
    amounts: Sequence[float],
) -> tuple[list[Choice], list[float]]:
    """All kinds of batches and their probabilities: a task by its share, then a bucket by its amount of clips.

    Args:
        cfg: shares of tasks and of condition lengths.
        sizes: of buckets.
        tasks: that each bucket can serve.
        num_latents: latent frames of each bucket.
        amounts: clips of each bucket, or the sum of their weights.

    Raises:
        ValueError: a task has a share, and no bucket serves it.
    """
    choices, shares = [], []
    for task, share in cfg.tasks.positive().items():
        able = [
            (number, _lengths(cfg, task, num_latents[number]))
            for number in range(len(sizes))
            if task in tasks[number] and amounts[number] > 0
        ]
        able = [(number, lengths) for number, lengths in able if lengths]
        if not able:
            raise ValueError(f"{cfg.path}: {_unable(cfg, task, sizes, num_latents)}")
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


def _unable(cfg: DataConfig, task: str, sizes: Sequence[tuple[int, int, int]], num_latents: Sequence[int]) -> str:
    have = ", ".join(
        f"{as_text(size)} ({latents} latent frames)" for size, latents in zip(sizes, num_latents, strict=True)
    )
    advice = {
        "t2i": "images, or lcv_jax.data.encode --images-from-clips",
        "vc": f"clips longer than one of condition_latents = {[length for length, _ in cfg.condition_latents]}",
        "refine": "the lower resolution that --refine of lcv_jax.data.encode, or data.refine, adds",
    }.get(task, "clips of several frames")
    return f"the task {task} has a share, but no bucket serves it; it needs {advice}. There are {have}"


def _warn_of_small_buckets(plans: Plans, sizes: Sequence[tuple[int, int, int]], *, weighted: bool) -> None:
    small = [
        f"{as_text(size)} ({count})"
        for size, count in zip(sizes, plans.num_records, strict=True)
        if count < plans.batch_size
    ]
    if small and not weighted:
        warnings.warn(
            f"fewer clips than the {plans.batch_size} of a batch: it repeats them, in {', '.join(small)}", stacklevel=4
        )
