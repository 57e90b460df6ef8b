"""What people preferred, as a manifest (.jsonl) for the training of judges.

A line is a pair of videos, or of pictures for a judge of pictures, with a label in one dimension or several

    {"prompt": "a red ball rolls", "a": "1.mp4", "b": "2.mp4", "labels": {"MQ": "a", "VQ": "same", "TA": null}}

or one video with ratings

    {"prompt": "a red ball rolls", "path": "1.mp4", "ratings": {"VQ": 3.5, "TA": 4}}

Paths are relative to the manifest. A dimension that is absent or null has no label. `id` names the line in messages.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lcv_jax.data.identity import Row, file_facts
from lcv_jax.data.manifest_config import ManifestConfig
from lcv_jax.user_files import parse_json, read_lines

PAIRS, RATINGS = "pairs", "ratings"
FIELDS = {PAIRS: {"prompt", "a", "b", "labels", "id"}, RATINGS: {"prompt", "path", "ratings", "id"}}
LABELS = {"a": 1.0, "b": -1.0, "same": 0.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferencesConfig(ManifestConfig):
    """Pairs or ratings to train a judge on; lines of one prompt are held out together."""

    path: Path
    """A manifest (.jsonl) of pairs or of ratings, see lcv_jax/data/preferences.py."""
    dimensions: tuple[str, ...] = ()
    """Those that are trained, such as MQ; labels in others are left out. None given: all of the judge's."""
    grayscale: bool = False
    """Show the judge the luma of all frames, so that it cannot go by colours."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opinion:
    """A line of a manifest."""

    id: str
    place: str
    """For messages: the file and the line."""
    prompt: str
    names: tuple[str, ...]
    """Paths of the two videos of a pair, or of the one that is rated, as the manifest has them."""
    paths: tuple[Path, ...]
    values: Mapping[str, float]
    """By dimension: of a pair 1 (the first is better), -1 or 0 (the same); or a rating."""


def read_opinions(path: Path, task: str, dimensions: Sequence[str]) -> list[Opinion]:
    """Reads and checks a whole manifest; videos must be there, but are not opened.

    Args:
        path: the manifest.
        task: "pairs" or "ratings".
        dimensions: that the judge has.

    Raises:
        OSError: there is no such manifest.
        ValueError: a line is not as it should be, or there is none; the file and the line are named.
    """
    found = list(_opinions(path, task, dimensions))
    if not found:
        raise ValueError(f"{path}: holds no {task}")
    seen: dict[str, str] = {}
    for opinion in found:
        if opinion.id in seen:
            raise ValueError(f"{opinion.place}: the id {opinion.id!r} is that of {seen[opinion.id]} too")
        seen[opinion.id] = opinion.place
    return found


def opinion_rows(opinions: Sequence[Opinion], known: Mapping[str, Row]) -> list[Row]:
    """What the data are, as identity.py compares them: the lines, and the content of every file."""
    rows: list[Row] = [
        {"id": one.id, "prompt": one.prompt, "videos": list(one.names), "values": dict(one.values)} for one in opinions
    ]
    files = {name: path for one in opinions for name, path in zip(one.names, one.paths, strict=True)}
    rows += [{"id": f"video {name}", **file_facts(path, known.get(f"video {name}"))} for name, path in files.items()]
    return rows


def _opinions(path: Path, task: str, dimensions: Sequence[str]) -> Iterator[Opinion]:
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        row = {name: value for name, value in parse_json(line, place).items() if value is not None}
        try:
            yield _opinion(row, place, f"line {number}", path.parent, task, dimensions)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None


def _opinion(
    row: Mapping[str, Any], place: str, number: str, folder: Path, task: str, dimensions: Sequence[str]
) -> Opinion:
    other = RATINGS if task == PAIRS else PAIRS
    if set(row) & (FIELDS[other] - FIELDS[task]):
        raise ValueError(f"{other[:-1]} in a manifest of {task}: this objective is trained on {task} alone")
    if unknown := sorted(set(row) - FIELDS[task]):
        raise ValueError(f"unknown fields {', '.join(unknown)}; a line has {', '.join(sorted(FIELDS[task]))}")
    names = tuple(_text(row, field) for field in (("a", "b") if task == PAIRS else ("path",)))
    paths = tuple(folder / name for name in names)
    for one in paths:
        if not one.is_file():
            raise ValueError(f"no such file: {one}")
    if len({one.resolve() for one in paths}) < len(paths):
        raise ValueError(f"a and b are the same video, {names[0]}")
    field = "labels" if task == PAIRS else "ratings"
    given = row.get(field)
    if not isinstance(given, Mapping):
        raise ValueError(f"{field} must be an object of dimensions, got {given!r}")
    if unknown := sorted(set(given) - set(dimensions)):
        raise ValueError(f"{field} of {', '.join(unknown)}: the judge has {', '.join(dimensions)}")
    read = _label if task == PAIRS else _rating
    values = {name: read(name, value) for name, value in given.items() if value is not None}
    if not values:
        raise ValueError(f"{field} are all missing: leave the line out")
    identity = row.get("id", number)
    return Opinion(id=str(identity), place=place, prompt=_text(row, "prompt"), names=names, paths=paths, values=values)


def _text(row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{field} must be a text, got {value!r}")
    return value


def _label(name: str, value: Any) -> float:
    if not isinstance(value, str) or value not in LABELS:
        raise ValueError(f"the label of {name} must be one of {', '.join(LABELS)} or null, got {value!r}")
    return LABELS[value]


def _rating(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"the rating of {name} must be a number or null, got {value!r}")
    return float(value)
