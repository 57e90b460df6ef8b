"""Prompts of public benchmarks, from the files that their projects publish, as suites.

VBench (Huang et al. 2024) and VBench 2.0 (Zheng et al. 2025): the full_info.json; MovieGen Bench (Polyak et al. 2024):
the prompts as .txt, or as .csv with their tags; T2V-CompBench (Sun et al. 2025): the folder `prompts`.
"""

import csv
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lcv_jax.evaluation.suites import Item
from lcv_jax.user_files import read_json, read_text, reading

VBENCH_SAMPLES, VBENCH_FLICKER_SAMPLES = 5, 25
VBENCH2_SAMPLES, VBENCH2_DIVERSITY_SAMPLES = 3, 20
VBENCH2_DIMENSIONS = {
    "creativity": ("Composition", "Diversity"),
    "commonsense": ("Instance_Preservation", "Motion_Rationality"),
    "controllability": (
        "Camera_Motion", "Complex_Landscape", "Complex_Plot", "Dynamic_Attribute", "Dynamic_Spatial_Relationship",
        "Human_Interaction", "Motion_Order_Understanding",
    ),
    "human fidelity": ("Human_Anatomy", "Human_Clothes", "Human_Identity"),
    "physics": ("Material", "Mechanics", "Multi-View_Consistency", "Thermotics"),
}  # fmt: skip
"""The 18 dimensions in the five groups whose means are averaged."""


def read_vbench(path: Path) -> list[Item]:
    """VBench_full_info.json: five videos a prompt, 25 where flicker is scored.

    Raises:
        OSError: there is no such file.
        ValueError: it is no such file, or one of VBench 2.0.
    """
    rows = _read_entries(path)
    if any(name in _VBENCH2_ALL for row in rows for name in row["dimension"]):
        raise ValueError(f"{path}: these are prompts of VBench 2.0: read it as vbench2")
    return [
        Item(
            id=f"vbench-{number:04d}",
            prompt=row["prompt_en"],
            categories=tuple(row["dimension"]),
            dimensions=tuple(row["dimension"]),
            num_samples=VBENCH_FLICKER_SAMPLES if "temporal_flickering" in row["dimension"] else VBENCH_SAMPLES,
        )
        for number, row in enumerate(rows)
    ]


_VBENCH2_ALL = {name: group for group, names in VBENCH2_DIMENSIONS.items() for name in names}


def read_vbench2(path: Path) -> list[Item]:
    """VBench2_full_info.json: three videos a prompt, 20 of those for diversity.

    Raises:
        OSError: there is no such file.
        ValueError: it is no such file, or names a dimension that VBench 2.0 does not have.
    """
    rows = _read_entries(path)
    unknown = sorted({name for row in rows for name in row["dimension"] if name not in _VBENCH2_ALL})
    if unknown:
        raise ValueError(f"{path}: {', '.join(unknown)} is no dimension of VBench 2.0; of another version?")
    unique = {(tuple(row["dimension"]), row["prompt_en"]): None for row in rows}  # some are listed twice
    return [
        Item(
            id=f"vbench2-{number:04d}",
            prompt=prompt,
            categories=tuple(dict.fromkeys(_VBENCH2_ALL[name] for name in dimensions)),
            dimensions=dimensions,
            num_samples=VBENCH2_DIVERSITY_SAMPLES if dimensions[0] == "Diversity" else VBENCH2_SAMPLES,
        )
        for number, (dimensions, prompt) in enumerate(unique)
    ]


def _read_entries(path: Path) -> list[dict[str, Any]]:
    rows = read_json(path, list)
    if not rows:
        raise ValueError(f"{path}: expected a list of objects with prompt_en and dimension")
    for number, row in enumerate(rows):
        prompt, dimension = (row.get(key) for key in ("prompt_en", "dimension")) if isinstance(row, dict) else (0, 0)
        dimension = [dimension] if isinstance(dimension, str) else dimension
        if not isinstance(prompt, str) or not isinstance(dimension, list) or not dimension:
            raise ValueError(f"{path}: entry {number}: expected prompt_en and dimension, got {str(row)[:80]}")
        row["dimension"] = dimension
    return rows


def read_movie_gen(path: Path) -> list[Item]:
    """MovieGenVideoBench.txt, or MovieGenVideoBenchWithTag.csv, whose concepts become categories.

    Raises:
        OSError: there is no such file.
        ValueError: it has no prompts, or not the columns of that file.
    """
    if path.suffix.lower() == ".csv":
        tagged = [(row["prompt"], [*row["concept"].split(","), _motion(row)]) for row in _rows(path)]
    else:
        tagged = [(line, []) for line in _lines(path)]
    return [
        Item(
            id=f"moviegen-{number:04d}",
            prompt=prompt.strip(),
            categories=tuple(dict.fromkeys(tag.strip() for tag in tags if tag.strip())),
        )
        for number, (prompt, tags) in enumerate(tagged)
    ]


def _rows(path: Path) -> list[dict[str, str]]:
    """Of the tagged prompts; quoted ones may have line breaks."""
    with reading(path):
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
        absent = [name for name in ("prompt", "concept", "motion_level") if name not in (reader.fieldnames or ())]
        if absent:
            raise ValueError(f"expected the columns prompt, concept and motion_level, {', '.join(absent)} is missing")
        rows = list(reader)
        for number, row in enumerate(rows, 1):
            if None in row or None in row.values() or not row["prompt"].strip():
                raise ValueError(f"row {number} must have a prompt and as many fields as the head, got {str(row)[:80]}")
        if not rows:
            raise ValueError("holds no prompts")
    return rows


def _motion(row: dict[str, str]) -> str:
    level = row["motion_level"].strip()
    return f"{level} motion" if level else ""


def read_t2v_compbench(folder: Path) -> list[Item]:
    """The folder `prompts` of T2V-CompBench: a file a category, such as 7_numeracy.txt, a prompt a line.

    Raises:
        OSError: a file cannot be read.
        ValueError: there are no such files.
    """
    files = sorted(folder.glob("[0-9]_*.txt"))
    if not files:
        raise ValueError(f"{folder}: expected files such as 1_consistent_attr.txt; give the folder `prompts`")
    return [
        Item(id=f"compbench-{file.stem}-{number:04d}", prompt=line, categories=(file.stem.split("_", 1)[1],))
        for file in files
        for number, line in enumerate(_lines(file))
    ]


def _lines(path: Path) -> Iterable[str]:
    found = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    if not found:
        raise ValueError(f"{path}: holds no prompts")
    return found


READERS: dict[str, Callable[[Path], list[Item]]] = {
    "vbench": read_vbench,
    "vbench2": read_vbench2,
    "moviegen": read_movie_gen,
    "t2v-compbench": read_t2v_compbench,
}
