"""VBench and VBench 2.0 in an environment of their own: running them, reading their results, aggregating these.

Formulas: VBench (Huang et al. 2024): dimensions are scaled by a minimum and maximum, dynamic degree counts half, and
quality counts four times as much as semantics. VBench 2.0 (Zheng et al. 2025): means of five groups, and their mean. A
missing dimension is missing: what depends on it has no value, and never counts it as zero.
"""

import dataclasses
import math
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lcv_jax.evaluation.statistics import vbench2_total
from lcv_jax.evaluation.suite_readers import VBENCH2_DIMENSIONS
from lcv_jax.user_files import read_json, reading

_QUALITY = {
    "subject consistency": (0.1462, 1.0),
    "background consistency": (0.2615, 1.0),
    "temporal flickering": (0.6293, 1.0),
    "motion smoothness": (0.706, 0.9975),
    "dynamic degree": (0.0, 1.0),
    "aesthetic quality": (0.0, 1.0),
    "imaging quality": (0.0, 1.0),
}
_SEMANTICS = {
    "object class": (0.0, 1.0),
    "multiple objects": (0.0, 1.0),
    "human action": (0.0, 1.0),
    "color": (0.0, 1.0),
    "spatial relationship": (0.0, 1.0),
    "scene": (0.0, 0.8222),
    "appearance style": (0.0009, 0.2855),
    "temporal style": (0.0, 0.364),
    "overall consistency": (0.0, 0.364),
}
"""Dimensions with the minimum and maximum that they are scaled by."""
_WEIGHTS = {"dynamic degree": 0.5}
"""Of the dimensions that do not count as one."""
_QUALITY_TO_SEMANTICS = 4.0
_GROUPS = {group: tuple(name.replace("_", " ") for name in names) for group, names in VBENCH2_DIMENSIONS.items()}
DIMENSIONS: dict[str, tuple[str, ...]] = {
    "vbench": (*_QUALITY, *_SEMANTICS),
    "vbench2": tuple(name for names in _GROUPS.values() for name in names),
}
DEFAULT_COMMANDS = {
    "vbench": "vbench evaluate --videos_path {videos} --dimension {dimension} --output_path {output}",
    "vbench2": "python evaluate.py --videos_path {videos}/{dimension} --dimension {dimension} --output_path {output}",
}
_PLACES = re.compile(r"\{(videos|dimension|output)\}")
_LOG_LINES = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aggregate:
    """A benchmark's scores."""

    dimensions: dict[str, float]
    """Those that there are, as the benchmark gave them."""
    groups: dict[str, float | None]
    """None: one of the group's dimensions is missing."""
    total: float | None
    missing: tuple[str, ...]


def aggregate(benchmark: str, scores: Mapping[str, float | int]) -> Aggregate:
    """Groups and total from the scores of dimensions, whose names may be spelt with underscores.

    Raises:
        ValueError: a dimension that this benchmark does not have (of another version?), a score outside 0..1.
    """
    given = {name.replace("_", " "): float(score) for name, score in scores.items()}
    known = DIMENSIONS[benchmark]
    unknown = [name for name in given if name not in known]
    if unknown:
        other = next((name for name, names in DIMENSIONS.items() if set(unknown) & set(names)), None)
        hint = f": results of {other}" if other else ""
        raise ValueError(f"{benchmark} has no dimension {', '.join(unknown)}{hint}; of another version?")
    for name, score in given.items():
        if not 0 <= score <= 1:
            raise ValueError(f"{name}: a score must lie in 0..1, got {score:g}; in percent?")
    missing = tuple(name for name in known if name not in given)
    groups, total = (_vbench if benchmark == "vbench" else _vbench2)(given)
    return Aggregate(dimensions=given, groups=groups, total=total, missing=missing)


def _vbench(given: Mapping[str, float]) -> tuple[dict[str, float | None], float | None]:
    quality, semantics = _scaled_mean(given, _QUALITY), _scaled_mean(given, _SEMANTICS)
    total = None
    if quality is not None and semantics is not None:
        total = (_QUALITY_TO_SEMANTICS * quality + semantics) / (_QUALITY_TO_SEMANTICS + 1)
    return {"quality": quality, "semantics": semantics}, total


def _scaled_mean(given: Mapping[str, float], ranges: Mapping[str, tuple[float, float]]) -> float | None:
    if any(name not in given for name in ranges):
        return None
    weights = [_WEIGHTS.get(name, 1.0) for name in ranges]
    scaled = [(given[name] - low) / (high - low) for name, (low, high) in ranges.items()]
    return math.fsum(weight * value for weight, value in zip(weights, scaled, strict=True)) / math.fsum(weights)


def _vbench2(given: Mapping[str, float]) -> tuple[dict[str, float | None], float | None]:
    whole = {
        group: math.fsum(given[name] for name in names) / len(names)
        for group, names in _GROUPS.items()
        if all(name in given for name in names)
    }
    total = vbench2_total(whole) if len(whole) == len(_GROUPS) else None
    return {group: whole.get(group) for group in _GROUPS}, total


def read_results(path: Path) -> dict[str, float]:
    """Scores of dimensions from a benchmark's *_eval_results.json, or from all of them below a folder.

    Raises:
        OSError: there is no such file.
        ValueError: no results, a file that is something else, or two that disagree.
    """
    files = sorted(path.rglob("*_eval_results.json")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: no file *_eval_results.json")
    scores: dict[str, float] = {}
    source: dict[str, Path] = {}
    for file in files:
        for name, value in read_json(file).items():
            given = value[0] if isinstance(value, list) and value else value
            with reading(f"{file}: {name}"):
                if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(float(given)):
                    raise ValueError(f"expected [score, per-video results], got {str(value)[:60]}")
            score = float(given)
            if scores.setdefault(name, score) != score:
                raise ValueError(f"{name} is {scores[name]:g} in {source[name]}, but {score:g} in {file}: keep one")
            source[name] = file
    if not scores:
        raise ValueError(f"{path}: holds no results")
    return scores


def _words(command: str) -> list[str]:
    """A command line in words, which has a place for each value; other braces are the command's own.

    Raises:
        ValueError: it lacks a place, or ends within quotes.
    """
    absent = [place for place in ("{videos}", "{dimension}", "{output}") if place not in command]
    if absent:
        raise ValueError(f"command must have {', '.join(absent)} where the values go, got {command!r}")
    try:
        return shlex.split(command)
    except ValueError as error:
        raise ValueError(f"command: {error}, got {command!r}") from None


def run_benchmark(
    benchmark: str,
    videos: Path,
    output: Path,
    *,
    command: str = "",
    dimensions: Sequence[str] = (),
    folder: Path | None = None,
    log: Callable[[str], None] = print,
) -> list[str]:
    """Runs a benchmark's own command for each dimension whose results are not there yet.

    Args:
        benchmark: vbench or vbench2.
        videos: folder in its layout.
        output: folder for results and logs, one sub-folder a dimension.
        command: command line in the benchmark's own environment, with {videos}, {dimension} and {output}.
        dimensions: spelt with underscores; none: all.
        folder: where the command runs, such as the benchmark's checkout.
        log: where progress goes.

    Returns:
        Dimensions that failed; the others go on without them.

    Raises:
        ValueError: a command without these places, or an unknown dimension.
        OSError: a folder that there is not, or a command that cannot be run.
    """
    template = _words(command or DEFAULT_COMMANDS[benchmark])
    for given in (videos, folder):
        if given is not None and not given.is_dir():
            raise NotADirectoryError(f"{given}: no such folder")
    everything = [name.replace(" ", "_") for name in DIMENSIONS[benchmark]]
    unknown = [name for name in dimensions if name not in everything]
    if unknown:
        raise ValueError(f"{benchmark} has no dimension {', '.join(unknown)}; it has {', '.join(everything)}")
    failed = []
    for dimension in dimensions or everything:
        place = output.resolve() / dimension
        if list(place.rglob("*_eval_results.json")):
            log(f"{dimension}: done already")
            continue
        place.mkdir(parents=True, exist_ok=True)
        values = {"videos": str(videos.resolve()), "dimension": dimension, "output": str(place)}
        words = [_PLACES.sub(lambda place: values[place[1]], word) for word in template]  # noqa: B023
        with open(place / "log.txt", "w", encoding="utf-8") as file:
            try:
                status = subprocess.run(
                    words, stdout=file, stderr=subprocess.STDOUT, cwd=folder, check=False
                ).returncode
            except OSError as error:
                raise OSError(f"{words[0]}: cannot be run ({os.strerror(error.errno or 0)}); see --command") from error
        results = list(place.rglob("*_eval_results.json"))
        found = {} if status or not results else read_results(place)
        if dimension not in {name.replace(" ", "_") for name in found}:
            failed.append(dimension)
            for path in results:  # which the next run would take for done
                path.unlink()
            tail = (place / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
            log(f"{dimension}: failed with status {status}; the end of {place / 'log.txt'}:\n  " + "\n  ".join(tail))
        else:
            log(f"{dimension}: {next(iter(found.values())):.4f}")
    return failed
