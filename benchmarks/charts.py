"""The line chart of benchmarks/attention.py. Needs `pip install "lcv_jax[benchmarks]"`."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

STYLES = ("-", "-.", ":")
"""Of the sparsities, highest first; dense is dashed."""

Line = tuple[str, float | None, list[tuple[int, float]]]


def lines(rows: list[dict], what: str) -> list[Line]:
    """Implementation, sparsity (None is dense) and (tokens, milliseconds); of the blocks only the first."""
    first = next((row["blocks"] for row in rows if row["blocks"]), None)
    found: dict[tuple[str, float | None], list[tuple[int, float]]] = {}
    for row in rows:
        if row["pass"] == what and row["median_ms"] is not None and row["blocks"] in (None, first):
            key = row["implementation"], row["sparsity"] if row["blocks"] else None
            found.setdefault(key, []).append((row["num_tokens"], row["median_ms"]))
    return sorted(((*key, points) for key, points in found.items()), key=lambda line: -line[2][-1][1])


def _panel(axes: Axes, title: str, panel: list[Line], colours: dict[str, str]) -> None:
    sparsities = sorted({sparsity for _, sparsity, _ in panel if sparsity is not None}, reverse=True)
    for name, sparsity, points in panel:
        style = "--" if sparsity is None else STYLES[sparsities.index(sparsity) % len(STYLES)]
        label = f"{name}, {'dense' if sparsity is None else f'{sparsity:.2%} sparse'}"
        axes.plot(*zip(*points, strict=True), marker="o", linestyle=style, color=colours[name], label=label)
    tokens = sorted({x for _, _, points in panel for x, _ in points})
    axes.set(title=title, xlabel="tokens", xscale="log", yscale="log")
    axes.set_xticks(tokens, [f"{x:,}" for x in tokens])
    axes.set_xticks([], minor=True)
    axes.grid(visible=True, alpha=0.3)


def draw(result: dict, path: Path) -> None:
    """Time against tokens, forward and backward, of what benchmarks/attention.py writes as JSON."""
    figure = Figure(figsize=(13, 5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    colours = {name: f"C{at}" for at, name in enumerate(sorted({row["implementation"] for row in result["rows"]}))}
    _panel(left, "forward, selection included", lines(result["rows"], "forward"), colours)
    _panel(right, "backward", lines(result["rows"], "backward"), colours)
    left.set_ylabel("milliseconds")
    names = {
        label: line for axes in (right, left) for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(names.values(), names.keys(), loc="outside right upper", handlelength=4, frameon=False)
    heads = f"{result['heads']} heads of {result['head_dim']}, {result['dtype']}"
    figure.suptitle(f"Attention on {result['device']}: {heads}, {result['date'][:10]}")
    figure.savefig(path, dpi=150)
