"""Measures of curation on planted films: which shots freeze, blur, flicker, carry text, and what the camera does.

Called by `python -m benchmarks.curation`. Shots are taken as they are planted, two frames shorter at both ends, and
without black borders: other stages are measured for those. Thresholds are those of configs/curation.
"""

import collections
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.curation import Row, share
from lcv_jax.curation.logos import find_logo
from lcv_jax.curation.measures import measure_frames
from lcv_jax.curation.text import measure_text
from lcv_jax.data.media_reader import open_clip

STILL, FROZEN, BLURRED, FLICKERS, COVERED = 0.65, 0.25, 0.4, 2.0, 0.01
"""Share of frozen frames; seconds; percent of the shorter side; percent of the brightness; share of the frame."""
_TRIMMED, _LEAST = 2, 12


@functools.cache
def _measured(films: tuple[Path, ...]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every shot that is not dark, with its measures."""
    return [
        (shot, measure_frames(frames, fps, step=12))
        for film in films
        for shot, fps, frames in _shots(film)
        if shot["defect"] not in ("dark", "spotlight")
    ]


def defects(films: Sequence[Path]) -> list[Row]:
    """Still shots, freezing, blur and flicker, among all shots that are not dark."""
    rules: dict[str, Callable[[dict[str, Any]], bool]] = {
        "still": lambda m: m["frozen_share"] > STILL,
        "frozen": lambda m: m["frozen_share"] <= STILL and m["longest_freeze"] >= FROZEN,
        "blur": lambda m: m["edge_width"] > BLURRED,
        "flicker": lambda m: m["flicker"] > FLICKERS,
    }
    found = _measured(tuple(films))
    return [_row(name, [(shot["defect"] == name, rule(m)) for shot, m in found]) for name, rule in rules.items()]


def camera(films: Sequence[Path]) -> list[Row]:
    """Camera classes of textures, which training never saw, and of the world where its background shows movement."""
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for shot, measures in _measured(tuple(films)):
        if (shot["scene"] or {}).get("texture") not in ("plain", "stripes"):
            for kind in (shot["content"], shot["camera"]):
                counts[kind][measures["camera"] == shot["camera"]] += 1
    rows = sorted(counts.items(), key=lambda row: (row[0] not in ("texture", "world"), row[0]))
    return [{"shots": kind, "of": both.total(), "accuracy": share(both[True], both.total())} for kind, both in rows]


def logo(films: Sequence[Path]) -> list[Row]:
    """Films with a logo, by one frame of each shot."""
    pairs = []
    for film in films:
        truth = _truth(film)
        places = [(shot["start"] + shot["end"]) // 2 for shot in truth["shots"] if shot["end"] - shot["start"] > _LEAST]
        with open_clip(film) as clip:
            found = find_logo(clip.pictures(places))
        pairs.append((truth["logo"] is not None, found is not None and found.box is not None))
    return [_row("logo", pairs)]


def text(films: Sequence[Path]) -> list[Row]:
    """Shots with subtitles, of films without a logo (whose letters are text too), by a frame a second."""
    pairs = []
    for film in films:
        truth = _truth(film)
        if truth["logo"] is not None:
            continue
        for shot, fps, frames in _shots(film):
            first, step = shot["start"] + _TRIMMED, round(fps)
            sampled = list(itertools.islice(frames, 0, None, step))
            shown = [
                any(line["start"] <= first + number * step < line["end"] for line in truth["subtitles"])
                for number in range(len(sampled))
            ]
            pairs.append((any(shown), measure_text(sampled)["text_coverage_most"] > COVERED))
    return [_row("subtitles", pairs)]


def _truth(film: Path) -> dict[str, Any]:
    return json.loads(film.with_suffix(".json").read_text(encoding="utf-8"))


def _shots(film: Path) -> Iterator[tuple[dict[str, Any], float, Iterator[np.ndarray]]]:
    """Every shot of an original with its rate and its frames, without borders."""
    truth = _truth(film)
    if truth["duplicate"] is not None:
        return
    border, height, width = truth["borders"], truth["height"], truth["width"]
    rows = slice(border["top"], height - border["bottom"])
    columns = slice(border["left"], width - border["right"])
    for shot in truth["shots"]:
        places = range(shot["start"] + _TRIMMED, shot["end"] - _TRIMMED)
        if len(places) >= _LEAST:
            with open_clip(film) as clip:
                pictures = (np.ascontiguousarray(frame[rows, columns]) for frame in clip.pictures(places))
                yield shot, float(Fraction(truth["fps"])), pictures


def _row(name: str, pairs: Sequence[tuple[bool, bool]]) -> Row:
    """Recall and precision of pairs (planted, found)."""
    both = sum(planted and found for planted, found in pairs)
    planted, found = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
    return {
        "what": name,
        "of": len(pairs),
        "planted": planted,
        "found": found,
        "recall": share(both, planted),
        "precision": share(both, found),
    }
