"""The report's Table 2 from what `python -m benchmarks.gpu` measured: `python -m benchmarks.table2 [--write PAGE]`.

A row adds up the parts of a request (benchmarks/gpu/parts.py), each as often as generation runs it. Every part was
timed at full size, of the sampling loop one step, so that rows are extrapolated from a step; only a loop that was timed
whole is marked measured. A row of which a part is missing has no time. `--write` puts the table between two markers of
a page (docs/speed.md), `--check` fails when the page has another one.
"""

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.__main__ import RESULTS
from benchmarks.pages import put_between

BEGIN, END = "<!-- table 2: begin -->", "<!-- table 2: end -->"
put_between_markers = functools.partial(put_between, begin=BEGIN, end=END)
COLUMNS = ("setting", "steps", "the report, one H800", "all", "transformer alone", "", "peak memory", "planned")
VERSIONS = ("python", "jax", "jaxlib", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13")
DENSE_93, DENSE_189 = "480p -> 720p x 93", "480p -> 720p x 189"


@dataclasses.dataclass(frozen=True)
class Setting:
    """A row of the report's table."""

    name: str
    steps: tuple[tuple[str, int], ...]
    """Parts that are steps of a sampling loop, and how many."""
    others: tuple[str, ...]
    """Parts that run once, or as often as they are named."""
    published: float
    """Seconds on one H800 (report, Table 2)."""

    def parts(self) -> list[tuple[str, int]]:
        """All parts, and how often each runs."""
        once = {name: self.others.count(name) for name in self.others}
        return [*self.steps, *once.items()]


_SMALL, _TEXT = ("text", "decode_480p"), ("text",)
_REFINED = (*_SMALL, "encode_720p", "decode_720p")
_REFINED_189 = (*_SMALL, "encode_720p_189", "decode_720p_189")
_FIRST = ("step_480p", 16)
SETTINGS = (
    Setting("480p x 93, guidance", (("step_480p_guided", 50),), (*_TEXT, *_SMALL), 341.5),
    Setting("480p x 93, distilled", (_FIRST,), _SMALL, 61.3),
    Setting("720p x 93, guidance", (("step_720p_guided", 50),), (*_TEXT, *_TEXT, "decode_720p"), 1429.5),
    Setting("720p x 93, distilled", (("step_720p", 16),), (*_TEXT, "decode_720p"), 244.6),
    Setting(DENSE_93, (_FIRST, ("step_720p", 5)), _REFINED, 135.3),
    Setting(DENSE_189, (_FIRST, ("step_720p_189", 5)), _REFINED_189, 302.9),
    Setting(f"{DENSE_93}, sparse", (_FIRST, ("step_720p_sparse", 5)), _REFINED, 116.5),
    Setting(f"{DENSE_189}, sparse", (_FIRST, ("step_720p_189_sparse", 5)), _REFINED_189, 142.0),
)
WHOLE = {("step_480p", 16): "whole_480p"}
"""Loops that were timed whole, by the stage that did."""


@dataclasses.dataclass(frozen=True)
class Total:
    """Of a setting, from the parts that were measured."""

    seconds: float | None
    """None: parts are missing."""
    in_steps: float | None
    """Seconds of these in sampling loops."""
    missing: tuple[str, ...]
    measured: bool
    """No step was multiplied."""
    peak_bytes: int | None
    planned_bytes: int | None


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Records of a run by stage; those of a dry run count for nothing.

    Raises:
        ValueError: they are of several cards.
    """
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    found = {record["stage"]: record for record in records if "device" in record and not record["toy"]}
    if len(cards := {record["device"] for record in found.values()}) > 1:
        raise ValueError(f"{folder}: the results are of several cards, {', '.join(sorted(cards))}: use one folder each")
    return found


def total(setting: Setting, results: Mapping[str, Mapping[str, Any]]) -> Total:
    """Adds up a setting."""
    by_part: dict[str, list[Mapping[str, Any]]] = {}
    for record in results.values():
        if record["stage"] not in WHOLE.values():
            for row in record["rows"]:
                by_part.setdefault(row.get("part", ""), []).append(row)
    loops, taken, rows, measured = dict(setting.steps), {}, [], True
    for name, times in setting.parts():
        whole = _seconds(results.get(WHOLE.get((name, times), ""), {"rows": []})["rows"])
        one = _seconds(found := by_part.get(name, []))
        rows += found
        taken[name] = whole if whole is not None else None if one is None else times * one
        measured &= whole is not None or name not in loops
    missing = tuple(name for name, seconds in taken.items() if seconds is None)
    peaks, planned = ([row[key] for row in rows if row.get(key)] for key in ("peak_bytes", "planned_bytes"))
    return Total(
        seconds=_sum(taken.values()),
        in_steps=_sum(taken[name] for name in loops),
        missing=missing,
        measured=measured,
        peak_bytes=max(peaks, default=None),
        planned_bytes=max(planned, default=None),
    )


def _sum(seconds: Iterable[float | None]) -> float | None:
    """None where one is missing."""
    seconds = list(seconds)
    return None if None in seconds else sum(seconds)


def _seconds(rows: list[Mapping[str, Any]]) -> float | None:
    """Of the programs of a part; None where one was not measured."""
    if not rows or any(row.get("error") for row in rows):
        return None
    return sum(row["seconds"] for row in rows)


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: where the numbers are from, a line for every setting, and what is missing."""
    lines = ["Unmeasured: there are no results of a GPU in `benchmarks/results/gpu`; `make gpu` makes them."]
    if results:
        first = min(results.values(), key=lambda record: record["date"])
        versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items() if name in VERSIONS)
        lines = [f"{first['device']}, {first['date'][:10]}, {versions}; `{first['command']}`."]
        lines.append(
            "Peak memory is the most of any part that the process held, planned what XLA assigns to that part."
        )
    lines += ["", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    absent: dict[str, tuple[str, ...]] = {}
    for setting in SETTINGS:
        found = total(setting, results)
        how = "" if found.in_steps is None else "measured" if found.measured else "extrapolated from a step"
        if results and found.missing:
            absent[setting.name] = found.missing
        steps = " / ".join(str(number) for _, number in setting.steps)
        memory = (_gigabytes(found.peak_bytes), _gigabytes(found.planned_bytes))
        times = (_seconds_of(found.seconds), _seconds_of(found.in_steps))
        cells = (setting.name, steps, f"{setting.published:,.1f} s", *times, how, *memory)
        lines.append(f"| {' | '.join(cells)} |")
    if absent:
        lines += ["", *(f"- {name}: without {', '.join(parts)}" for name, parts in absent.items())]
    return "\n".join(lines)


def _seconds_of(seconds: float | None) -> str:
    return "unmeasured" if seconds is None else f"{seconds:,.1f} s"


def _gigabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e9:.1f} GB"


def main() -> None:
    """Prints, writes or checks the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder that benchmarks.gpu wrote")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the markers of this page")
    parser.add_argument("--check", type=Path, metavar="PAGE", help="fail when the page's table is another")
    args = parser.parse_args()
    try:
        text = table(read_results(args.results))
        print(text)
        if args.write:
            args.write.write_text(put_between_markers(args.write.read_text(), text))
        if args.check and put_between_markers(page := args.check.read_text(), text) != page:
            raise ValueError(f"{args.check} has another table: python -m benchmarks.table2 --write {args.check}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
