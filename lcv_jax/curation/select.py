"""Selection: the clips that a recipe keeps, as a manifest that lcv_jax.encode and the trainer read."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from lcv_jax.curation.library import Library
from lcv_jax.curation.recipe import RULES, Recipe
from lcv_jax.curation.stages import ORDER, stage_named
from lcv_jax.own_files import write_text

_CAPTIONS = ("captions", "caption_en")
"""Columns with captions, the first that there is: a list, or one text."""


@dataclasses.dataclass(frozen=True)
class Step:
    """What a rule did."""

    rule: str
    kept: int
    dropped: int


def select(library: Library, recipe: Recipe, out: Path) -> list[Step]:
    """Writes the manifest (.jsonl) of the clips that a recipe keeps, and returns what each rule did.

    Raises:
        ValueError: a rule needs a column that no stage has written, or the recipe keeps nothing.
    """
    if out.suffix != ".jsonl":
        raise ValueError(f"{out}: the manifest is written as .jsonl, got {out.suffix or 'no suffix'!r}")
    connection = library.connect()
    have = {name for name, *_ in connection.execute("DESCRIBE clips").fetchall()}
    count = connection.execute("SELECT count(*) FROM clips").fetchone()[0]
    if not count:
        raise ValueError(f"{library.folder}: holds no clips yet: run the stage that cuts them")
    steps, conditions, values = [Step("all clips", count, 0)], ["true"], []
    for name, condition, value in [*_conditions(recipe), *_caption_rule(recipe, have)]:
        _check_columns(name, condition, have)
        conditions.append(f"coalesce({condition}, false)")
        values += value
        (kept,) = connection.execute(f"SELECT count(*) FROM clips WHERE {' AND '.join(conditions)}", values).fetchone()
        steps.append(Step(name, kept, steps[-1].kept - kept))
        if not kept:
            raise ValueError(f"the recipe keeps nothing: {name} dropped the last {steps[-1].dropped} of {count} clips")
    if recipe.weight_column:
        _check_columns("weight_column", f'"{recipe.weight_column}"', have)
    result = connection.execute(f"SELECT * FROM clips WHERE {' AND '.join(conditions)} ORDER BY clip", values)
    names = [column[0] for column in result.description]
    lines = []
    for found in result.fetchall():
        lines.append(json.dumps(_entry(library, recipe, dict(zip(names, found, strict=True))), ensure_ascii=False))
    write_text(out, "\n".join(lines) + "\n")
    return steps


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


def _caption_rule(recipe: Recipe, have: set[str]) -> list[tuple[str, str, list[Any]]]:
    if recipe.default_caption:
        return []
    column = next((name for name in _CAPTIONS if name in have), None)
    if column is None:
        raise ValueError("no stage has written captions: run captions and augmentation, or give default_caption")
    return [("captions", f"len({column}) > 0", [])]


def _check_columns(rule: str, condition: str, have: set[str]) -> None:
    used = set(re.findall(r"[a-z_][a-z_0-9]+", condition.split(" IN ")[0])) - {"least", "len"}
    for column in sorted(used - have):
        writers = [name for name in ORDER if column in stage_named(name).writes]
        advice = f"run the stage {writers[0]}" if writers else f"columns are {', '.join(sorted(have))}"
        raise ValueError(f"{rule} needs the column {column!r}, which no stage has written: {advice}")


def _entry(library: Library, recipe: Recipe, row: dict[str, Any]) -> dict[str, Any]:
    """A line of the manifest."""
    captions = row.get("captions") or row.get("caption_en") or recipe.default_caption
    entry = {
        "id": row["clip"],
        "path": str(library.folder / row["clip_path"]),
        "captions": captions if isinstance(captions, list) else [captions],
        "weight": row[recipe.weight_column] if recipe.weight_column else 1.0,
    }
    names = {"height": "clip_height", "width": "clip_width", "num_frames": "clip_frames", "fps": "clip_fps"}
    return entry | {name: row[column] for name, column in names.items() if row.get(column) is not None}
