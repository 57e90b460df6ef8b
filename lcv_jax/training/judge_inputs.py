"""Batches of pairs or ratings as a judge takes them: videos read, resized and packed under their prompts.

Samples whose programs are the same, by the buckets of rewards/judge_batches.py, form batches; data/plans.py says which.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.batches import Batches
from lcv_jax.data.held_out import held_out_clips
from lcv_jax.data.media_reader import read_image
from lcv_jax.data.pictures import picture_size
from lcv_jax.data.plans import Choice, Plans
from lcv_jax.data.preferences import PAIRS, Opinion, PreferencesConfig, opinion_rows, read_opinions
from lcv_jax.data.rows import Rows
from lcv_jax.models.judges import HPSV3, JudgeConfig
from lcv_jax.objectives.preferences import MISSING
from lcv_jax.rewards import clip_files, hpsv3, videoreward
from lcv_jax.rewards.clip_files import Grid
from lcv_jax.rewards.conversation import Conversation
from lcv_jax.rewards.judge_batches import Row, Shape, make_row, pack, shape_of
from lcv_jax.rewards.readouts import grayscale
from lcv_jax.training.judges import JudgeBase

ATTEMPTS = 20
"""To replace a sample whose file cannot be read."""


def open_preferences(
    cfg: PreferencesConfig,
    base: JudgeBase,
    task: str,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    held_out: bool = False,
) -> Batches:
    """Opens a manifest of pairs or ratings, as data/batches.py opens clips; the headers of all files are read.

    Args:
        cfg: what to read.
        base: the judge.
        task: "pairs" or "ratings".
        batch_size, seed, process_index, process_count, held_out: as for `open_batches`.

    Raises:
        OSError: there is no such manifest.
        ValueError: a line of the manifest is not as it should be, or a file of it cannot be read.
    """
    dimensions = chosen_dimensions(cfg, base.cfg)
    listed = read_opinions(cfg.path, task, base.cfg.dimensions)
    labelled = [one for one in listed if set(one.values) & set(dimensions)]
    if not labelled:
        raise ValueError(f"{cfg.path}: no line has a label of {', '.join(dimensions)}")
    apart = held_out_clips({one.prompt for one in labelled}, cfg.held_out)
    chosen = [one for one in labelled if (one.prompt in apart) == held_out]
    with ThreadPoolExecutor(max(1, cfg.threads)) as pool:
        grids = list(pool.map(functools.partial(_grids, judge=base.cfg), chosen))
    samples = [Sample(opinion=one, grids=each) for one, each in zip(chosen, grids, strict=True)]
    by_shape: dict[Shape, list[Sample]] = {}
    for sample in samples:
        by_shape.setdefault(sample.shape(base.conversation), []).append(sample)
    shapes = sorted(by_shape)
    counts = [len(by_shape[shape]) for shape in shapes]
    choices = [Choice(task, 0, bucket) for bucket in range(len(shapes))]
    plans = Plans(choices, list(map(float, counts)), counts, None, batch_size, seed)
    per_process = batch_size // process_count
    rows = range(process_index * per_process, (process_index + 1) * per_process)
    source = PreferenceRows(
        buckets=[by_shape[shape] for shape in shapes],
        shapes=shapes,
        plans=plans,
        rows=rows,
        conversation=base.conversation,
        dimensions=dimensions,
        grey=cfg.grayscale,
    )
    told = json.dumps([[*shape, *[sample.opinion.id for sample in by_shape[shape]]] for shape in shapes])
    return Batches(
        cfg,
        plans,
        source,
        shapes,
        data_hash=hashlib.sha256(told.encode()).hexdigest(),
        rows=functools.partial(opinion_rows, chosen),
        constants={},
    )


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceRows:
    """Fetches a process's rows of a step, for grain."""

    buckets: Sequence[Sequence[Sample]]
    shapes: Sequence[Shape]
    plans: Plans
    rows: range
    conversation: Conversation
    dimensions: tuple[str, ...]
    grey: bool

    def __call__(self, step: int) -> Rows:
        """The arrays of training/judges.py, each with an axis of a sample's videos after the first, and the labels."""
        choice, records = self.plans.choice(step), self.plans.records(step)
        samples = self.buckets[choice.bucket]
        packed, values, unreadable = [], [], dict[str, str]()
        for row in self.rows:
            sample = samples[records[row]]
            for attempt in range(ATTEMPTS):
                try:
                    videos = sample.rows(self.conversation, grey=self.grey)
                    packed.append(pack(videos, self.shapes[choice.bucket], len(videos), self.conversation))
                    break
                except (OSError, ValueError) as error:
                    unreadable[sample.opinion.id] = " ".join(str(error).split())
                    sample = samples[self.plans.replacement(step, row, attempt)]
            else:
                some = "; ".join(list(unreadable.values())[:3])
                raise ValueError(f"hardly a video of the data can be read any more: {some}")
            values.append([sample.opinion.values.get(name, np.nan) for name in self.conversation.cfg.dimensions])
        arrays = {name: np.stack([one[name] for one in packed]) for name in packed[0]}
        trained = np.array([name in self.dimensions for name in self.conversation.cfg.dimensions])
        values_BD = np.where(trained, np.array(values, np.float32), np.float32(np.nan))
        if choice.task == PAIRS:
            return arrays | {"label_BD": np.where(np.isnan(values_BD), MISSING, values_BD).astype(np.int32)}, unreadable
        return arrays | {"rating_BD": values_BD}, unreadable


def _grids(opinion: Opinion, judge: JudgeConfig) -> tuple[Grid, ...]:
    try:
        return tuple(_grid(path, judge) for path in opinion.paths)
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
