"""What scripts that write tables and pictures of the documents share."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

plt.switch_backend("svg")
plt.rcParams["svg.hashsalt"] = "the same file every time"

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results" / "toy"
RUNS = DOCS.parent / "outputs" / "toy"


def read_json(path: Path) -> dict[str, Any]:
    """A file of lcv_jax.toy.score."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """What a run logged, a line each time."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def filled(text: str, name: str, content: str) -> str:
    """A page with `content` between `<!-- name -->` and the next `<!-- end -->`."""
    begin, end = f"<!-- {name} -->", "<!-- end -->"
    before, rest = text.split(begin)  # a page without a place for it, or with two, is wrong
    return f"{before}{begin}\n{content}\n{end}{rest.split(end, 1)[1]}"


def told(value: Mapping[str, float] | None) -> str:
    """A number of lcv_jax.toy.score with its interval; nothing where it was not measured."""
    if value is None:
        return ""
    if "percent" in value:
        return f"{value['percent']:.0f} % ({value['low']:.0f} to {value['high']:.0f})"
    interval = f" ({value['low']:.3g} to {value['high']:.3g})" if "low" in value else ""
    return f"{value['mean']:.3g}{interval}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as Markdown; the first is the head."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(scores: Sequence[Mapping[str, float]]) -> str:
    """Shares or means of several runs: their mean, the least and the most."""
    shares = "percent" in scores[0]
    values = [score["percent" if shares else "mean"] for score in scores]
    told = [f"{value:.0f}" if shares else f"{value:.3g}" for value in (np.mean(values), min(values), max(values))]
    unit = " %" if shares else ""
    return told[0] + unit + (f" ({told[1]} to {told[2]})" if len(values) > 1 else "")


def smooth(values: Sequence[float], width: int = 5) -> np.ndarray:
    """The running mean of so many."""
    padded = np.pad(np.asarray(values), (width // 2, width // 2), mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")


def save(figure: Any, path: Path) -> None:
    """The same bytes for the same numbers."""
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
