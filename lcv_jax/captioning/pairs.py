"""Clips and pictures with their captions, to train a captioner on.

A manifest of the trainer (data/manifest.py), such as `curate select` writes, or in JSONL a line for each clip as

    {"video": "1.mp4", "prompt": "What happens?", "caption": "a red ball rolls to the left"}

with `image` instead of `video` for a picture. Without `prompt` the question is that of the config. Lines that are
wrong, clips that cannot be read and captions that do not fit are left out, with their reasons.
"""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lcv_jax.bounds import Count
from lcv_jax.captioning.prompts import QUESTION, CaptionPrompts, Clip, Shape, Views, pack, shape_of
from lcv_jax.data.manifest import Entry, entry_of, sort_lines
from lcv_jax.data.manifest_config import ManifestConfig
from lcv_jax.data.patches import PATCH, fitting_size
from lcv_jax.data.pictures import picture_size, read_image
from lcv_jax.rewards.clip_files import Grid, file_frames, file_grid
from lcv_jax.rewards.videoreward import frame_patches

FILES = ("path", "video", "image")
"""Columns, of which a line has one."""
ANSWER_TOKENS = 64
"""Of which the room for an answer is a multiple: captions of all lengths compile few programs."""
UNCOUNTED = -1
"""A target that is padding."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionsConfig(ManifestConfig):
    """Clips and pictures with captions, to train a captioner on."""

    path: Path
    """A manifest (.jsonl, .csv or .parquet) with captions, see lcv_jax/captioning/pairs.py."""
    question: str = QUESTION
    """What the captioner is asked, where a line has no `prompt`."""
    views: Views = dataclasses.field(default_factory=Views)
    max_length: Count = 16384
    """Most tokens of a clip, its question and its caption together; longer ones are left out."""


class Buckets(NamedTuple):
    """What a step is compiled for."""

    shape: Shape
    answer: int
    """Tokens of an answer, a multiple of `ANSWER_TOKENS`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """A clip and its captions, of which a sample has one."""

    entry: Entry
    grid: Grid
    buckets: Buckets
    """That hold all of its captions."""

    @property
    def id(self) -> str:
        """Of the entry."""
        return self.entry.id


def read_lines(path: Path) -> tuple[list[Entry], dict[str, str]]:
    """The entries of a manifest, and the lines that are none, with reasons.

    Raises:
        OSError: there is no such file.
        ValueError: it cannot be read.
    """
    return sort_lines(path, _entry)


def _entry(row: dict[str, Any], folder: Path) -> Entry:
    named = [column for column in FILES if column in row]
    if len(named) > 1:
        raise ValueError(f"give one of {', '.join(named)}")
    prompt = row.get("prompt")
    if prompt is not None and not isinstance(prompt, str):
        raise ValueError(f"prompt must be a text, got {prompt!r}")
    entry = entry_of({**row, "path": row[named[0]]} if named else row, folder)
    return dataclasses.replace(entry, prompt=prompt)


def measure(
    cfg: CaptionsConfig, entries: Sequence[Entry], prompts: CaptionPrompts
) -> tuple[list[Pair], dict[str, str]]:
    """Entries with their buckets, and those that cannot be trained on, with reasons; the headers of files are read."""
    pairs, left_out = [], dict[str, str]()
    with ThreadPoolExecutor(max(1, cfg.threads)) as pool:
        found = [(entry, pool.submit(_measure, cfg, entry, prompts)) for entry in entries]
        for entry, pair in found:
            try:
                pairs.append(pair.result())
            except (OSError, ValueError) as error:
                left_out[entry.id] = " ".join(str(error).split())
    return pairs, left_out


def _measure(cfg: CaptionsConfig, entry: Entry, prompts: CaptionPrompts) -> Pair:
    views = cfg.views
    if entry.is_image:
        height, width = fitting_size(*picture_size(entry.path), views.min_pixels, views.max_pixels)
        grid = 1, height // PATCH, width // PATCH
    else:
        grid = file_grid(entry.path, views, entry.start, entry.end)
    clips = [_answered(cfg, entry, grid, prompts, caption) for caption in entry.captions]
    longest = max(clips, key=lambda clip: len(clip.ids))
    answer, length = len(longest.ids) - longest.begin, len(longest.ids)
    if length > cfg.max_length:
        raise ValueError(
            f"{length} tokens ({longest.num_visual} of the clip, {answer} of the caption), data.max_length is "
            f"{cfg.max_length}: shorten the caption, lower data.views.fps or data.views.max-pixels, or raise "
            "data.max-length"
        )
    return Pair(entry=entry, grid=grid, buckets=Buckets(shape_of(longest), -(-answer // ANSWER_TOKENS) * ANSWER_TOKENS))


def pack_pair(
    cfg: CaptionsConfig, pair: Pair, prompts: CaptionPrompts, draw: np.random.Generator
) -> dict[str, np.ndarray]:
    """The arrays of one sample: those of `Asked`, where its answer is predicted, and what it is.

        places_BA   places whose next tokens are the answer's, the last of them the one that ends it
        target_BA   these tokens; `UNCOUNTED` is padding

    Raises:
        OSError, ValueError: the file cannot be read any more, or is another one.
    """
    entry, shape = pair.entry, pair.buckets.shape
    caption = entry.captions[int(draw.integers(len(entry.captions)))]
    clip = _answered(cfg, entry, pair.grid, prompts, caption)
    asked, _, _ = pack([clip], 1, prompts, shape)
    answer = np.array(clip.ids[clip.begin :], np.int32)
    places_A = np.minimum(clip.begin - 1 + np.arange(pair.buckets.answer), shape.length - 1).astype(np.int32)
    target_A = np.full(pair.buckets.answer, UNCOUNTED, np.int32)
    target_A[: len(answer)] = answer
    return {**asked._asdict(), "places_BA": places_A[None], "target_BA": target_A[None]}


def _answered(cfg: CaptionsConfig, entry: Entry, grid: Grid, prompts: CaptionPrompts, caption: str) -> Clip:
    def load() -> np.ndarray:
        return frame_patches(frames_of(entry, cfg.views, even=True), cfg.views)

    question = cfg.question if entry.prompt is None else entry.prompt
    return prompts.answered(prompts.asked(load, grid, question, is_picture=entry.is_image), caption)


def frames_of(entry: Entry, views: Views, *, even: bool = False) -> np.ndarray:
    """The frames of a clip that the captioner sees, T H W 3.

    Args:
        entry: a clip or a picture.
        views: which frames are shown.
        even: a picture twice, as the network sees it, and not once.

    Raises:
        OSError: it cannot be read.
        ValueError: it cannot be shown as it is meant to be, or has too few frames.
    """
    if entry.is_image:
        return np.repeat(read_image(entry.path)[None], 2 if even else 1, axis=0)
    return file_frames(entry.path, views, entry.start, entry.end)
