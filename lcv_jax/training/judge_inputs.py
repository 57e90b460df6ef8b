"""Batches of pairs or ratings as a judge takes them: videos read, resized and packed under their prompts.

Samples whose programs are the same, by the buckets of rewards/judge_batches.py, form batches; data/plans.py says which.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.batches import Batches
from lcv_jax.data.held_out import held_out_clips
from lcv_jax.data.media_reader import read_image
from lcv_jax.data.pictures import picture_size
from lcv_jax.data.plans import Plans
from lcv_jax.data.preferences import PAIRS, Opinion, PreferencesConfig, opinion_rows, read_opinions
from lcv_jax.data.rows import Rows, read_or_replace
from lcv_jax.data.shaped_batches import batches_by_shape
from lcv_jax.models.judges import HPSV3, JudgeConfig
from lcv_jax.objectives.preferences import MISSING
from lcv_jax.rewards import clip_files, hpsv3, videoreward
from lcv_jax.rewards.clip_files import Grid
from lcv_jax.rewards.conversation import Conversation
from lcv_jax.rewards.judge_batches import Row, Shape, make_row, pack, shape_of
from lcv_jax.rewards.readouts import grayscale


def open_preferences(
    cfg: PreferencesConfig,
    conversation: Conversation,
    task: str,
    *,
    held_out: bool = False,
    **which: Any,
) -> Batches:
    """Opens a manifest of pairs or ratings, as data/batches.py opens clips; the headers of all files are read.

    Args:
        cfg: what to read.
        conversation: of the judge.
        task: "pairs" or "ratings".
        held_out: as for `open_batches`.
        which: batch_size, seed, process_index, process_count likewise.

    Raises:
        OSError: there is no such manifest.
        ValueError: a line of the manifest is not as it should be, or a file of it cannot be read.
    """
    judge = conversation.cfg
    dimensions = chosen_dimensions(cfg, judge)
    listed = read_opinions(cfg.path, task, judge.dimensions)
    labelled = [one for one in listed if set(one.values) & set(dimensions)]
    if not labelled:
        raise ValueError(f"{cfg.path}: no line has a label of {', '.join(dimensions)}")
    apart = held_out_clips({one.prompt for one in labelled}, cfg.held_out)
    chosen = [one for one in labelled if (one.prompt in apart) == held_out]
    grid_of = functools.cache(functools.partial(_grid, judge=judge))  # a file can be in many lines
    with ThreadPoolExecutor(max(1, cfg.threads)) as pool:
        grids = list(pool.map(functools.partial(_grids, grid_of=grid_of), chosen))
    samples = [Sample(opinion=one, grids=each) for one, each in zip(chosen, grids, strict=True)]
    by_shape: dict[Shape, list[Sample]] = {}
    for sample in samples:
        by_shape.setdefault(sample.shape(conversation), []).append(sample)
    source = functools.partial(
        PreferenceRows,
        shapes=sorted(by_shape),
        conversation=conversation,
        dimensions=dimensions,
        grey=cfg.grayscale,
    )
    return batches_by_shape(cfg, task, by_shape, source, functools.partial(opinion_rows, chosen), **which)


def chosen_dimensions(cfg: PreferencesConfig, judge: JudgeConfig) -> tuple[str, ...]:
    """Those that are trained.

    Raises:
        ValueError: the judge has no such dimension.
    """
    if unknown := [name for name in cfg.dimensions if name not in judge.dimensions]:
        raise ValueError(
            f"data.dimensions has {', '.join(unknown)}: this judge is {judge.kind}, of {', '.join(judge.dimensions)}"
        )
    return cfg.dimensions or judge.dimensions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """A line of the manifest and the patches that its videos will have."""

    opinion: Opinion
    grids: tuple[Grid, ...]

    @property
    def id(self) -> str:
        """Of the line."""
        return self.opinion.id

    def shape(self, conversation: Conversation) -> Shape:
        """The buckets that hold all of its videos."""
        found = [shape_of(row, conversation) for row in self.rows(conversation, grey=False)]
        return Shape(*map(max, zip(*found, strict=True)))

    def rows(self, conversation: Conversation, *, grey: bool) -> list[Row]:
        """A row for each video."""
        cfg = conversation.cfg
        return [
            make_row(conversation, functools.partial(_patches, path, cfg, grey), grid, [(self.opinion.prompt, [0])])
            for path, grid in zip(self.opinion.paths, self.grids, strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class PreferenceRows:
    """Fetches a process's rows of a step, for grain."""

    buckets: Sequence[Sequence[Sample]]
    plans: Plans
    rows: range
    _: dataclasses.KW_ONLY
    shapes: Sequence[Shape]
    conversation: Conversation
    dimensions: tuple[str, ...]
    grey: bool

    def __call__(self, step: int) -> Rows:
        """The arrays of training/judges.py, each with an axis of a sample's videos after the first, and the labels."""
        choice = self.plans.choice(step)
        shape = self.shapes[choice.bucket]

        def read(row: int, sample: Sample) -> tuple[dict[str, np.ndarray], list[float]]:
            videos = sample.rows(self.conversation, grey=self.grey)
            values = [sample.opinion.values.get(name, np.nan) for name in self.conversation.cfg.dimensions]
            return pack(videos, shape, len(videos), self.conversation), values

        done, unreadable = read_or_replace(self.plans, step, self.rows, self.buckets[choice.bucket], "the data", read)
        packed, values = zip(*done, strict=True)
        arrays = {name: np.stack([one[name] for one in packed]) for name in packed[0]}
        trained = np.array([name in self.dimensions for name in self.conversation.cfg.dimensions])
        values_BD = np.where(trained, np.array(values, np.float32), np.float32(np.nan))
        if choice.task == PAIRS:
            return arrays | {"label_BD": np.where(np.isnan(values_BD), MISSING, values_BD).astype(np.int32)}, unreadable
        return arrays | {"rating_BD": values_BD}, unreadable


def _grids(opinion: Opinion, grid_of: Callable[[Path], Grid]) -> tuple[Grid, ...]:
    try:
        return tuple(map(grid_of, opinion.paths))
    except (OSError, ValueError) as error:
        raise ValueError(f"{opinion.place}: {error}") from None


def _grid(path: Path, judge: JudgeConfig) -> Grid:
    if judge.kind == HPSV3:
        return hpsv3.picture_grid(picture_size(path), judge)
    return clip_files.file_grid(path, judge)


def _patches(path: Path, judge: JudgeConfig, grey: bool) -> UInt8[np.ndarray, "t S C"]:
    if judge.kind == HPSV3:
        image_HWC = read_image(path)
        return hpsv3.picture_patches(grayscale(image_HWC) if grey else image_HWC, judge)
    frames_THWC = clip_files.file_frames(path, judge)
    return videoreward.frame_patches(grayscale(frames_THWC) if grey else frames_THWC, judge)
