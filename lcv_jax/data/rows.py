"""What fetches a batch's rows: encoded clips, clips as files, or crops of them. Which rows, plans.py says.

These objects go to worker processes by pickling, and are called from several threads.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import islice
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from lcv_jax.data.clips import TooShortError, first_described, measure, read_frames
from lcv_jax.data.config import DataConfig, Size, as_text
from lcv_jax.data.degrade import Refinement, pick, upsample_bytes
from lcv_jax.data.encoded import EncodedFolder, unpack_record
from lcv_jax.data.frames import resize_and_crop
from lcv_jax.data.manifest import Entry
from lcv_jax.data.media_reader import read_image, stream_video
from lcv_jax.data.plans import Plans

Rows = tuple[dict[str, np.ndarray], dict[str, str]]
"""Arrays, and the clips that could not be read for them, with reasons."""
Tokens = tuple[np.ndarray, np.ndarray]
"""Ids and mask of one caption."""
Source = Callable[[int], Rows]
"""Fetches this process's rows of a step."""
_ATTEMPTS = 50


@runtime_checkable
class Identified(Protocol):
    """A sample that messages name."""

    @property
    def id(self) -> str: ...


Sample = TypeVar("Sample", bound=Identified)


def read_or_replace(
    plans: Plans, step: int, rows: range, samples: Sequence[Sample], what: str, read: Callable[[int, Sample], Any]
) -> tuple[list[Any], dict[str, str]]:
    """What `read` makes of each row's sample; one that cannot be read is replaced by another of its bucket.

    Args:
        plans: which samples are in a batch.
        step: of the batch.
        rows: of the batch, this process's.
        samples: of the batch's bucket.
        what: they are, for messages.
        read: makes a row of a sample.

    Returns:
        The rows, and the samples that could not be read, with reasons.

    Raises:
        ValueError: hardly a sample of the bucket can be read.
    """
    records = plans.records(step)
    done, quarantined = [], dict[str, str]()
    for row in rows:
        sample = samples[records[row]]
        for attempt in range(_ATTEMPTS):
            try:
                done.append(read(row, sample))
                break
            except (OSError, ValueError) as error:
                quarantined[sample.id] = " ".join(str(error).split())
                sample = samples[plans.replacement(step, row, attempt)]
        else:
            some = "; ".join(list(quarantined.values())[:3])
            raise ValueError(f"hardly a clip of {what} can be read any more: {some}")
    return done, quarantined


class EncodedRows:
    """Latents and embeddings, from shards."""

    def __init__(
        self,
        cfg: DataConfig,
        folder: EncodedFolder,
        sources: Sequence[Any],
        plans: Plans,
        rows: range,
        *,
        late_captions: bool,
    ):
        self._cfg, self._sources, self._plans, self._rows = cfg, sources, plans, rows
        self._empty_LD, self._late_captions = folder.caption(""), late_captions

    def __call__(self, step: int) -> Rows:
        """The rows; none is quarantined, as encoding has read every clip."""
        choice = self._plans.choice(step)
        records = self._plans.records(step)
        latents, upsampled, texts, starts = [], [], [], []
        for row in self._rows:
            arrays, facts = unpack_record(self._sources[choice.bucket][int(records[row])])
            latents.append(arrays["latents_THWC"])
            starts.append(facts.get("caption_start", 0))
            if choice.task == "refine":
                upsampled.append(arrays["upsampled_THWC"])
            captions = [array for name, array in arrays.items() if name.startswith("text_")]
            place = _draw_caption(self._plans.row_generator(step, row), len(captions), self._cfg.caption_dropout)
            texts.append(self._empty_LD if place is None else captions[place])
        text_BLD, text_mask_BL = pad_text(texts, self._cfg.max_sequence_length)
        batch = {"latents_BTHWC": np.stack(latents), "text_BLD": text_BLD, "text_mask_BL": text_mask_BL}
        if upsampled:
            batch["upsampled_BTHWC"] = np.stack(upsampled)
        if self._late_captions:
            batch["caption_start_B"] = np.array(starts, np.int32)
        return batch, {}


class FileRows:
    """What rows of files have in common: one that cannot be read is replaced by another of its bucket.

    Args:
        entries: of each bucket.
        sizes: of the buckets.
        plans: which of them.
        rows: of this process.
    """

    def __init__(self, entries: Sequence[Sequence[Entry]], sizes: Sequence[Size], plans: Plans, rows: range):
        self._entries, self._sizes, self._plans, self._rows = entries, sizes, plans, rows

    def _read_rows(self, step: int, read: Callable[[int, Entry, Size], Any]) -> tuple[list[Any], dict[str, str]]:
        """What `read` makes of each row's clip, and the clips that could not be read."""
        bucket = self._plans.choice(step).bucket
        size = self._sizes[bucket]
        return read_or_replace(
            self._plans,
            step,
            self._rows,
            self._entries[bucket],
            f"the bucket {as_text(size)}",
            lambda row, entry: read(row, entry, size),
        )


class ClipRows(FileRows):
    """Frames and token ids, for a trainer that encodes them itself.

    Args:
        cfg: the run's.
        entries, sizes, plans, rows: as for `FileRows`.
        captions: token ids and masks, L each, of every clip's captions by its id.
        empty: those of the empty caption.
        refinements: what clips are refined from.
        late_captions: batches say where captions begin.
    """

    def __init__(
        self,
        cfg: DataConfig,
        entries: Sequence[Sequence[Entry]],
        sizes: Sequence[Size],
        plans: Plans,
        rows: range,
        *,
        captions: Mapping[str, Sequence[Tokens]],
        empty: Tokens,
        refinements: Sequence[Refinement],
        late_captions: bool,
    ):
        super().__init__(entries, sizes, plans, rows)
        self._cfg, self._captions, self._empty, self._refinements = cfg, captions, empty, refinements
        self._late_captions = late_captions

    def __call__(self, step: int) -> Rows:
        """The rows."""
        fps = self._cfg.fps
        done, quarantined = self._read_rows(step, lambda row, entry, size: (entry, read_frames(entry, size, fps)))
        tokens = []
        for row, (entry, _) in zip(self._rows, done, strict=True):
            captions = self._captions[entry.id]
            place = _draw_caption(self._plans.row_generator(step, row), len(captions), self._cfg.caption_dropout)
            tokens.append(self._empty if place is None else captions[place])
        batch = {
            "video_BTHWC": np.stack([video for _, video in done]),
            "ids_BL": np.stack([ids for ids, _ in tokens]),
            "ids_mask_BL": np.stack([mask for _, mask in tokens]),
        }
        if self._plans.choice(step).task == "refine":
            batch["upsampled_video_BTHWC"] = np.stack([self._upsampled(entry, video) for entry, video in done])
        if self._late_captions:
            size = self._sizes[self._plans.choice(step).bucket]
            factor = self._cfg.temporal_factor
            starts = [first_described(entry, size, fps, factor) for entry, _ in done]
            batch["caption_start_B"] = np.array(starts, np.int32)
        return batch, quarantined

    def _upsampled(self, entry: Entry, video_THWC: np.ndarray) -> np.ndarray:
        small_THWC = pick(self._refinements, entry.id).degrade(video_THWC, self._cfg.fps, entry.id)
        T, H, W, _ = video_THWC.shape
        return upsample_bytes(small_THWC, T, H, W)


class CropRows(FileRows):
    """Frames alone, from random moments and places of clips."""

    def __init__(
        self, cfg: DataConfig, entries: Sequence[Sequence[Entry]], sizes: Sequence[Size], plans: Plans, rows: range
    ):
        super().__init__(entries, sizes, plans, rows)
        self._cfg = cfg

    def __call__(self, step: int) -> Rows:
        """The rows."""
        column = self._cfg.keep_column

        def read(row: int, entry: Entry, size: Size) -> tuple[np.ndarray, float]:
            video_THWC = read_crop(entry, size, self._cfg.fps, self._plans.row_generator(step, row))
            return video_THWC, 0.0 if column is None else entry.numbers[column]

        pairs, quarantined = self._read_rows(step, read)
        videos, keep = zip(*pairs, strict=True)
        batch = {"video_BTHWC": np.stack(videos)}
        if column is not None:
            batch["keep_B"] = np.array(keep, np.float32)
        return batch, quarantined


def read_crop(entry: Entry, size: Size, fps: float, generator: np.random.Generator) -> np.ndarray:
    """Frames T H W 3 of a clip from a moment and a place drawn at random, at its own scale unless that is too small.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no video, or too few frames.
    """
    T, height, width = size
    when, down, right = generator.random(3)
    frames = []
    for frame_HWC in _frames(entry, T, fps, when):
        H, W, _ = frame_HWC.shape
        scale = max(height / H, width / W)
        if scale > 1:
            H, W = max(height, round(H * scale)), max(width, round(W * scale))
            frame_HWC = resize_and_crop(frame_HWC[None], H, W)[0]
        top, left = int(down * (H - height + 1)), int(right * (W - width + 1))
        frames.append(frame_HWC[top : top + height, left : left + width])
    if len(frames) < T:
        raise TooShortError(len(frames), T)
    return np.stack(frames)


def _frames(entry: Entry, count: int, fps: float, when: float) -> Iterator[np.ndarray]:
    """So many frames from a moment of the clip, `when` of 0..1 between the first and the last it can be."""
    if entry.is_image:
        return iter([read_image(entry.path)])
    room = measure(entry, fps).num_frames - count
    start = Fraction(entry.start) + int(when * (max(room, 0) + 1)) / Fraction(fps).limit_denominator(100_000)
    return islice(stream_video(entry.path, fps, float(start)), count)


def _draw_caption(generator: np.random.Generator, num_captions: int, dropout: float) -> int | None:
    """Which of its captions a sample comes with; None: none."""
    dropped, place = generator.random(2)
    return None if dropped < dropout else math.floor(place * num_captions)


def pad_text(texts: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings L D of different lengths as one array B L D, and a mask B L of their tokens."""
    text_BLD = np.zeros((len(texts), length, texts[0].shape[1]), texts[0].dtype)
    mask_BL = np.zeros((len(texts), length), bool)
    for row, text_LD in enumerate(texts):
        text_BLD[row, : len(text_LD)] = text_LD
        mask_BL[row, : len(text_LD)] = True
    return text_BLD, mask_BL
