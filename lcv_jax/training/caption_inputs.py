"""Batches of clips with captions as a captioner takes them, by the buckets of captioning/pairs.py."""

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from lcv_jax.captioning.pairs import Buckets, CaptionsConfig, Pair, measure, pack_pair, read_lines
from lcv_jax.captioning.prompts import CaptionPrompts
from lcv_jax.data.batches import Batches
from lcv_jax.data.held_out import held_out_clips
from lcv_jax.data.identity import file_rows
from lcv_jax.data.plans import Plans
from lcv_jax.data.rows import Rows, read_or_replace
from lcv_jax.data.shaped_batches import batches_by_shape

CAPTIONS = "captions"


def open_captions(cfg: CaptionsConfig, prompts: CaptionPrompts, *, held_out: bool = False, **which: Any) -> Batches:
    """Opens a manifest of clips with captions, as data/batches.py opens clips; the headers of all files are read.

    Args:
        cfg: what to read.
        prompts: of the captioner.
        held_out: as for `open_batches`.
        which: batch_size, seed, process_index, process_count likewise.

    Raises:
        OSError: there is no such manifest.
        ValueError: it cannot be read, or nothing of it can be trained on.
    """
    listed, wrong = read_lines(cfg.path)
    apart = held_out_clips((entry.id for entry in listed), cfg.held_out)
    pairs, unfit = measure(cfg, [entry for entry in listed if (entry.id in apart) == held_out], prompts)
    left_out = wrong | unfit
    some = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:3])
    if not pairs:
        raise ValueError(f"{cfg.path}: no clip to train on{f', all are left out: {some}' if some else ''}")
    if left_out:
        warnings.warn(f"{cfg.path}: {len(left_out)} lines or clips are left out: {some}", stacklevel=4)
    by_shape: dict[Buckets, list[Pair]] = {}
    for pair in pairs:
        by_shape.setdefault(pair.buckets, []).append(pair)
    source = functools.partial(CaptionRows, cfg, prompts)
    rows = functools.partial(file_rows, [pair.entry for pair in pairs])
    batches = batches_by_shape(cfg, CAPTIONS, by_shape, source, rows, **which)
    batches.quarantined = left_out
    return batches


@dataclasses.dataclass(frozen=True)
class CaptionRows:
    """Fetches a process's rows of a step, for grain."""

    cfg: CaptionsConfig
    prompts: CaptionPrompts
    buckets: Sequence[Sequence[Pair]]
    plans: Plans
    rows: range

    def __call__(self, step: int) -> Rows:
        """The arrays of `pack_pair`; which of its captions a clip has is drawn for each step and row."""

        def read(row: int, pair: Pair) -> dict[str, np.ndarray]:
            return pack_pair(self.cfg, pair, self.prompts, self.plans.row_generator(step, row))

        pairs = self.buckets[self.plans.choice(step).bucket]
        done, unreadable = read_or_replace(self.plans, step, self.rows, pairs, "the data", read)
        return {name: np.concatenate([one[name] for one in done]) for name in done[0]}, unreadable
