"""Precision and recall of curation stages on planted films: `python -m benchmarks.curation STAGE ... [--films DIR]`.

    python -m benchmarks.curation segment crop --num-films 200

Makes the films where DIR does not have them yet, and prints a Markdown table for every stage. A stage is a function of
the films' paths that gives back rows; further ones are added to `STAGES`.
"""

import argparse
import datetime
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from lcv_jax.toy.films import Arguments, make_films
from lcv_jax.toy.measures import wilson_interval

Row = dict[str, str | int | float]
STAGES = {
    "duplicates": "benchmarks.curation_duplicates:duplicates",
    "segment": "benchmarks.curation_shots:segment",
    "crop": "benchmarks.curation_shots:crop",
    "defects": "benchmarks.curation_measures:defects",
    "camera": "benchmarks.curation_measures:camera",
    "logo": "benchmarks.curation_measures:logo",
    "text": "benchmarks.curation_measures:text",
}
"""Name: module and function."""


def table(rows: Sequence[Row]) -> str:
    """Rows in Markdown; the columns are those of the first."""

    def cell(value: str | int | float) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([cell(row[name]) for name in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def share(hits: int, total: int) -> str:
    """A share with its 95 % Wilson interval, or a dash where there is nothing to count."""
    if not total:
        return "-"
    low, high = wilson_interval(hits, total)
    return f"{hits / total:.3f} ({low:.3f}-{high:.3f})"


def run(stage: str, films: Sequence[Path]) -> list[Row]:
    """The rows of a stage."""
    module, _, name = STAGES[stage].partition(":")
    function: Callable[[Sequence[Path]], list[Row]] = getattr(importlib.import_module(module), name)
    return function(films)


def main() -> None:
    """Prints the table of every stage that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="+", choices=sorted(STAGES), metavar="STAGE", help=", ".join(sorted(STAGES)))
    parser.add_argument("--films", type=Path, default=Path("outputs/curation_films"))
    parser.add_argument("--num-films", type=int, default=200)
    parser.add_argument("--skip", type=int, default=0, help="of them that are not counted: those that were tuned on")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if not args.films.exists():
        make_films(Arguments(out=args.films, num_films=args.num_films, seed=args.seed))
    films = sorted((args.films / "films").glob("*.mp4"))[args.skip : args.num_films]
    for stage in args.stages:
        print(f"\n{stage}: {len(films)} films, {datetime.date.today()}\n\n{table(run(stage, films))}", flush=True)


if __name__ == "__main__":
    main()
