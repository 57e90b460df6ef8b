"""Selection: the clips that a recipe keeps, as a manifest that lcv_jax.encode and the trainer read, or as prompts."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lcv_jax.curation.library import Library
from lcv_jax.curation.recipe import RULES, Recipe
from lcv_jax.curation.stages import ORDER, stage_named
from lcv_jax.curation.weights import draw, mixed_weights, subset_classes
from lcv_jax.own_files import write_text

_CAPTIONS = ("captions", "caption_en")
"""Columns with captions, the first that there is: a list, or one text."""
_NUMBERS = {"height": "clip_height", "width": "clip_width", "num_frames": "clip_frames", "fps": "clip_fps"}
"""Of a manifest, with the columns of the library."""
_SUBSETS = {"camera_share": ("camera", "camera_confidence"), "style_share": ("style",)}
"""Fields with the columns that they need."""


@dataclasses.dataclass(frozen=True)
class Step:
    """What a rule did."""

    rule: str
    kept: int
    dropped: int


def select(library: Library, recipe: Recipe, out: Path) -> list[Step]:
    """Writes the clips that a recipe keeps, and returns what each rule did.

    Args:
        library: with the columns that the recipe's rules need.
        recipe: rules, weights and captions.
        out: a manifest (.jsonl) with weights and captions, or prompts alone, one a line (.txt).

    Raises:
        ValueError: a rule needs a column that no stage has written, or the recipe keeps nothing.
    """
    if out.suffix not in (".jsonl", ".txt"):
        raise ValueError(
            f"{out}: expected a manifest (.jsonl) or a text file of prompts (.txt), got {out.suffix or 'no suffix'!r}"
        )
    connection = library.connect_to_clips()
    have = {name: kind for name, kind, *_ in connection.execute("DESCRIBE clips").fetchall()}
    (count,) = connection.execute("SELECT count(*) FROM clips").fetchone()
    steps, conditions, values = [Step("all clips", count, 0)], ["true"], []
    for name, condition, value in rules_of(recipe, have):
        conditions.append(condition)
        values += value
        (kept,) = connection.execute(f"SELECT count(*) FROM clips WHERE {' AND '.join(conditions)}", values).fetchone()
        steps.append(Step(name, kept, steps[-1].kept - kept))
        if not kept:
            raise ValueError(f"the recipe keeps nothing: {name} dropped the last {steps[-1].dropped} of {count} clips")
    names = _columns(recipe, have)
    result = connection.execute(
        f"SELECT {', '.join(names)} FROM clips WHERE {' AND '.join(conditions)} ORDER BY clip", values
    )
    rows = [dict(zip(names, found, strict=True)) for found in result.fetchall()]
    chosen = _weighted(recipe, rows)
    if recipe.most_clips is not None:
        steps.append(Step(f"most_clips = {recipe.most_clips}", len(chosen), len(rows) - len(chosen)))
    write_text(out, "".join(f"{line}\n" for line in _lines(library, recipe, chosen, prompts=out.suffix == ".txt")))
    return steps


def rules_of(recipe: Recipe, have: Mapping[str, str]) -> list[tuple[str, str, list[Any]]]:
    """Name, SQL condition and its values of every rule of a recipe, in order.

    Args:
        recipe: its rules.
        have: columns of the clips with their types.

    Raises:
        ValueError: a rule needs a column that is not there.
    """
    rules = [*_conditions(recipe), *_caption_rule(recipe, have), *_weight_rule(recipe, have)]
    for name, condition, _ in rules:
        _check_columns(name, condition, have)
    return [(name, f"coalesce({condition}, false)", values) for name, condition, values in rules]


def _conditions(recipe: Recipe) -> list[tuple[str, str, list[Any]]]:
    """Name, SQL and values of the rules that apply."""
    found: list[tuple[str, str, list[Any]]] = []
    for name, (column, operator) in RULES.items():
        value = getattr(recipe, name)
        if operator == "IN" and value:
            found.append((f"{name} = {' '.join(value)}", f"{column} IN ({', '.join('?' * len(value))})", [*value]))
        elif operator != "IN" and value is not None:
            found.append((f"{name} = {value:g}", f"{column} {operator} ?", [value]))
    return found


def _caption_rule(recipe: Recipe, have: Mapping[str, str]) -> list[tuple[str, str, list[Any]]]:
    if recipe.default_caption:
        return []
    column = next((name for name in _CAPTIONS if name in have), None)
    if column is None:
        raise ValueError("no stage has written captions: run captions and augmentation, or give default_caption")
    return [("captions", f"len({column}) > 0", [])]


def _weight_rule(recipe: Recipe, have: Mapping[str, str]) -> list[tuple[str, str, list[Any]]]:
    column = recipe.weight_column
    if have.get(column, "DOUBLE") not in ("DOUBLE", "BIGINT"):
        raise ValueError(f"weight_column: {column} is no column of numbers, but of {have[column]}")
    return [(f"weight_column = {column}", f"{column} >= 0", [])] if column else []


def _check_columns(rule: str, condition: str, have: Mapping[str, str]) -> None:
    used = set(re.findall(r"[a-z_][a-z_0-9]+", condition.split(" IN ")[0])) - {"least", "len", "coalesce"}
    for column in sorted(used - have.keys()):
        writers = [name for name in ORDER if column in stage_named(name).writes]
        advice = f"run the stage {writers[0]}" if writers else f"columns are {', '.join(sorted(have))}"
        raise ValueError(f"{rule} needs the column {column!r}, which no stage has written: {advice}")


def _columns(recipe: Recipe, have: Mapping[str, str]) -> list[str]:
    """What is read of each clip that is kept."""
    names = ["clip", "clip_path", *(name for name in (*_CAPTIONS, *_NUMBERS.values()) if name in have)]
    for field, columns in _SUBSETS.items():
        if getattr(recipe, field):
            _check_columns(field, " ".join(columns), have)
            names += columns
    return [*names, recipe.weight_column] if recipe.weight_column else names


def _weighted(recipe: Recipe, rows: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], float]]:
    """The clips that are drawn, with their weights."""
    base_N = np.array([row[recipe.weight_column] if recipe.weight_column else 1.0 for row in rows])
    columns = [[row.get(name) for row in rows] for names in _SUBSETS.values() for name in names]
    weights_N = mixed_weights(base_N, subset_classes(recipe, *columns), recipe.most_weight)
    if recipe.most_clips is not None:
        return [(rows[place], 1.0) for place in draw(weights_N, recipe.most_clips, recipe.seed)]
    return list(zip(rows, weights_N.tolist(), strict=True))


def _lines(
    library: Library, recipe: Recipe, chosen: Sequence[tuple[dict[str, Any], float]], *, prompts: bool
) -> list[str]:
    """Of the file that is written."""
    if prompts:
        found = [" ".join(text.split()) for row, _ in chosen for text in _captions(recipe, row)]
        return list(dict.fromkeys(found))
    return [json.dumps(_entry(library, recipe, row, weight), ensure_ascii=False) for row, weight in chosen]


def _entry(library: Library, recipe: Recipe, row: dict[str, Any], weight: float) -> dict[str, Any]:
    """A line of the manifest."""
    entry = {
        "id": row["clip"],
        "path": str(library.folder / row["clip_path"]),
        "captions": _captions(recipe, row),
        "weight": float(f"{weight:.6g}"),
    }
    return entry | {name: row[column] for name, column in _NUMBERS.items() if row.get(column) is not None}


def _captions(recipe: Recipe, row: dict[str, Any]) -> list[str]:
    found = row.get("captions") or row.get("caption_en") or recipe.default_caption
    captions = found if isinstance(found, list) else [found]
    if recipe.captions == "one":
        digest = hashlib.sha256(f"{recipe.seed} {row['clip']}".encode()).digest()
        return [captions[int.from_bytes(digest[:8], "big") % len(captions)]]
    return captions
