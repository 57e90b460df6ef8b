"""Shots and black borders that are found in planted films, compared with the truth."""

import collections
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.curation import Row, share
from lcv_jax.curation.segment import SegmentSettings, Shots, find_shots
from lcv_jax.curation.transitions import Transition, clips_between
from lcv_jax.toy.films import read_truth

_GRADUAL = ("dissolve", "fade", "fade_in", "fade_out")


class ShotScore:
    """Counts over films. A hard cut has to be found at its frame, a dissolve or a fade by an interval that overlaps it.

    A detection within a fade or a dissolve counts once, whatever it is taken for. Where a picture jumps because it was
    frozen before, a detection counts neither way.
    """

    def __init__(self) -> None:
        self.planted: collections.Counter[str] = collections.Counter()
        self.found: collections.Counter[str] = collections.Counter()
        self.detected: collections.Counter[str] = collections.Counter()
        self.right: collections.Counter[str] = collections.Counter()
        self.clips = self.pure = self.frames = self.kept = 0

    def add(self, truth: dict[str, Any], transitions: Sequence[Transition], clips: Sequence[tuple[int, int]]) -> None:
        """One film."""
        gradual = [(row["start"], row["end"], row["kind"]) for row in truth["transitions"] if row["kind"] in _GRADUAL]
        cuts = {row["start"] for row in truth["transitions"] if row["kind"] == "cut"}
        thaws = {shot["frozen"][1] for shot in truth["shots"] if shot["frozen"]}
        found_cuts = {each.start for each in transitions if each.kind == "cut"}
        found_gradual = [each for each in transitions if each.kind != "cut"]
        self.planted["cut"] += len(cuts)
        self.found["cut"] += len(cuts & found_cuts)
        for start, end, kind in gradual:
            name = kind.partition("_")[0]
            self.planted[name] += 1
            self.found[name] += any(each.start < end and start < each.end for each in found_gradual)
        for cut in found_cuts - thaws:
            self.detected["cut"] += 1
            self.right["cut"] += cut in cuts or any(start <= cut <= end for start, end, _ in gradual)
        for each in found_gradual:
            self.detected[each.kind] += 1
            self.right[each.kind] += any(each.start < end and start < each.end for start, end, _ in gradual)
        alone = [(shot["start"], shot["end"]) for shot in truth["shots"]]
        self.frames += sum(end - start for start, end in alone)
        for clip_start, clip_end in clips:
            self.clips += 1
            self.pure += any(start <= clip_start and clip_end <= end for start, end in alone)
            self.kept += sum(max(0, min(end, clip_end) - max(start, clip_start)) for start, end in alone)

    def rows(self) -> list[Row]:
        """Of the table."""
        rows: list[Row] = [
            {
                "what": {"cut": "hard cuts", "dissolve": "dissolves", "fade": "fades"}[kind],
                "planted": self.planted[kind],
                "recall": share(self.found[kind], self.planted[kind]),
                "precision": share(self.right[kind], self.detected[kind]),
            }
            for kind in ("cut", "dissolve", "fade")
        ]
        purity, kept = share(self.pure, self.clips), share(self.kept, self.frames)
        rows.append({"what": "clips of a single shot", "planted": self.clips, "recall": "-", "precision": purity})
        rows.append({"what": "frames of shots kept in clips", "planted": self.frames, "recall": kept, "precision": "-"})
        return rows


def segment(films: Sequence[Path]) -> list[Row]:
    """Shots, with the weights of TransNet V2 where they are."""
    score = ShotScore()
    for film in films:
        shots = _shots(film)
        limits = {"trim": SegmentSettings().trim, "shortest": 16, "longest": 10**9}
        clips = clips_between(shots.transitions, shots.num_frames, **limits)
        score.add(read_truth(film), shots.transitions, clips)
    return score.rows()


def crop(films: Sequence[Path]) -> list[Row]:
    """Black borders, exact to two pixels at every side."""
    counts: collections.Counter[tuple[str, bool]] = collections.Counter()
    for film in films:
        truth, box = read_truth(film), _shots(film).borders
        found = (box.top, truth["height"] - box.top - box.height, box.left, truth["width"] - box.left - box.width)
        planted = [truth["borders"][name] for name in ("top", "bottom", "left", "right")]
        night = all(shot["defect"] in ("dark", "spotlight") for shot in truth["shots"])
        what = ("films with borders" if any(planted) else "films without") + (", dark throughout" if night else "")
        exact = all(abs(one - other) <= 2 for one, other in zip(found, planted, strict=True))
        counts[what, exact] += 1
    names = sorted({what for what, _ in counts})
    return [
        {
            "what": what,
            "films": counts[what, True] + counts[what, False],
            "exact to 2 pixels": share(counts[what, True], counts[what, True] + counts[what, False]),
        }
        for what in names
    ]


@functools.cache
def _shots(film: Path) -> Shots:
    return find_shots(film)
