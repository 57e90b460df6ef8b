"""A comparison as one self-contained HTML page, and as Markdown for a model card.

The page holds everything, clips included: bars with intervals as in the report's Figures 14 to 16, tables by category,
and the runs' clips side by side for the prompts where they differ most.
"""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from lcv_jax.evaluation.comparing import Comparison, Key, direction, verdict
from lcv_jax.evaluation.statistics import Estimate

COLOURS = ("#3056d3", "#d9822b", "#2a9d5c", "#a3359b", "#6b7280", "#c0392b")
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; }
table { border-collapse: collapse; margin: .6rem 0 1.4rem; }
th, td { border: 1px solid #8886; padding: .2rem .6rem; text-align: left; font-variant-numeric: tabular-nums; }
svg text { fill: currentColor; font: 12px system-ui, sans-serif; }
.note { opacity: .8; }
"""
CLIPS_STYLE = """
.clips { display: flex; gap: .6rem; flex-wrap: wrap; margin-bottom: 1.2rem; }
.clips figure { margin: 0; flex: 1 1 14rem; max-width: 26rem; }
.clips video { width: 100%; background: #000; }
"""
CLIPS_SCRIPT = """
// Clips of one prompt start together.
document.querySelectorAll(".clips").forEach((row) => row.addEventListener("click", () => {
  row.querySelectorAll("video").forEach((video) => { video.currentTime = 0; video.play(); });
}));
"""


def summary(found: Comparison) -> list[list[str]]:
    """A head and a row for each score: means with intervals, and what is clear against the first run."""
    first, *others = (run.name for run in found.runs)
    head = ["score", "better", *(run.name for run in found.runs), *(f"{first} and {other}" for other in others)]
    rows = []
    for key in found.values:
        cells = [_interval(estimate) for estimate in found.estimates(key).values()]
        cells += [verdict(found.difference(key, first, other), key, first, other) for other in others]
        rows.append([found.title(key), direction(key).removesuffix(" is better"), *cells])
    return [head, *rows]


def markdown(found: Comparison) -> str:
    """The summary as a table."""
    head, *rows = summary(found)
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in lines)
    notes = "".join(f"\n\n{note}." for note in found.notes)
    return f"{len(found.items)} prompts; means with 95 % bootstrap intervals over prompts.\n\n{table}{notes}\n"


def _cell(text: str) -> str:
    """Text within a table's cell."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())


def page(found: Comparison, *, num_prompts: int = 3, shown: Key | None = None) -> str:
    """The HTML page.

    Args:
        found: the comparison.
        num_prompts: best and worst prompts of the first run against the others, this many each.
        shown: the score that ranks them; None: the first that says what is better.

    Raises:
        ValueError: a score that there is not.
        OSError: a clip cannot be read.
    """
    names = [run.name for run in found.runs]
    chosen = _ranking(found, shown)
    parts = [f"<h1>{html.escape(' and '.join(names))}</h1>", f"<p>{len(found.items)} prompts; "]
    parts.append("means with 95 % bootstrap intervals over prompts; differences are paired by prompt.</p>")
    parts += [f'<p class="note">{html.escape(note)}</p>' for note in found.notes]
    for key in found.values:
        parts.append(f"<h2>{html.escape(found.title(key))}</h2><p>{html.escape(direction(key))}</p>")
        parts += [bars(found.estimates(key)), _verdicts(found, key)]
        if categories := _categories(found, key):
            parts.append(f"<details><summary>by category</summary>{categories}</details>")
    parts += _prompts(found, chosen, num_prompts)
    title = html.escape(f"Evaluation of {', '.join(names)}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}{CLIPS_STYLE}</style></head>\n<body>{''.join(parts)}<script>{CLIPS_SCRIPT}</script></body></html>\n"
    )


def _ranking(found: Comparison, shown: Key | None) -> Key:
    if shown is not None and shown not in found.values:
        known = ", ".join(f"{name}:{score}" for name, score in found.values)
        raise ValueError(f"there is no score {shown[0]}:{shown[1]}; there are {known}")
    judged = [key for key in found.values if key[0] != "measures"]
    return shown or next(iter(judged or found.values))


def bars(estimates: dict[str, Estimate], width: int = 640) -> str:
    """An SVG of means with their intervals, from zero or the lowest interval's end."""
    ends = [value for one in estimates.values() for value in (one.mean, one.low, one.high) if value is not None]
    low, high = min(0.0, *ends), max(0.0, *ends)
    span, left = (high - low) or 1.0, 150

    def x(value: float) -> float:
        return left + (value - low) / span * (width - left - 90)

    rows = []
    for place, (name, one) in enumerate(estimates.items()):
        top, colour = 26 * place, COLOURS[place % len(COLOURS)]
        start, end = sorted((x(0.0), x(one.mean)))
        rows.append(f'<text x="0" y="{top + 16}">{html.escape(name[:22])}</text>')
        rows.append(f'<rect x="{start:.1f}" y="{top + 3}" width="{end - start:.1f}" height="18" fill="{colour}"/>')
        if one.low is not None and one.high is not None:
            middle = top + 12
            path = f"M{x(one.low):.1f} {middle - 5}v10M{x(one.low):.1f} {middle}H{x(one.high):.1f}M{x(one.high):.1f} {middle - 5}v10"  # noqa: E501
            rows.append(f'<path d="{path}" stroke="currentColor" fill="none"/>')
        rows.append(f'<text x="{max(x(v) for v in (one.mean, one.high or one.mean)) + 6:.1f}" y="{top + 16}">')
        rows.append(f"{one.mean:.3g}</text>")
    height = 26 * len(estimates)
    box = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg {box} role="img">{"".join(rows)}</svg>'


def _verdicts(found: Comparison, key: Key) -> str:
    first, *others = (run.name for run in found.runs)
    rows = []
    for other in others:
        one = found.difference(key, first, other)
        rows.append([f"{first} - {other}", _interval(one.estimate), verdict(one, key, first, other)])
    return _table([["difference", "mean [95 %]", "verdict"], *rows])


def _categories(found: Comparison, key: Key) -> str:
    names = [run.name for run in found.runs]
    rows = [
        [category, str(by[names[0]].count), *(_interval(by[name]) for name in names)]
        for category, by in sorted(found.by_category(key).items(), key=lambda pair: -next(iter(pair[1].values())).count)
    ]
    return _table([["category", "prompts", *names], *rows])


def _prompts(found: Comparison, key: Key, number: int) -> list[str]:
    """Clips of the prompts where the first run is best and worst against the mean of the others."""
    first, *others = (run.name for run in found.runs)
    by_run = found.values[key]
    gain = {item: value - _mean([by_run[other][item] for other in others]) for item, value in by_run[first].items()}
    order = sorted(gain, key=lambda item: gain[item])
    worst = order[: min(number, len(order) // 2)]
    best = [item for item in order[::-1] if item not in worst][:number]
    clips = {run.name: {v.item.id: v for v in reversed(run.videos)} for run in found.runs}
    parts = []
    for title, items in ((f"Highest for {first}", best), (f"Lowest for {first}", worst)):
        parts.append(f"<h2>{html.escape(title)}</h2>" if items else "")
        for item in items:
            prompt = html.escape(clips[first][item].item.prompt or "(no prompt)")
            shown = [(f"{name}: {by_run[name][item]:.3g}", of_run[item].path) for name, of_run in clips.items()]
            parts.append(f"<p><b>{html.escape(item)}</b> {prompt}</p>{players(shown)}")
    return parts


def players(clips: Sequence[tuple[str, Path]]) -> str:
    """Clips side by side, each with a caption; `CLIPS_STYLE` and `CLIPS_SCRIPT` belong to them.

    Raises:
        OSError: a clip cannot be read.
    """
    figures = [
        f'<figure><video src="{_embedded(path)}" muted controls loop playsinline></video>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, path in clips
    ]
    return f'<div class="clips">{"".join(figures)}</div>'


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _embedded(path: Path) -> str:
    kind = "webm" if path.suffix == ".webm" else "mp4"
    return f"data:video/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _interval(one: Estimate) -> str:
    return f"{one.mean:.3g}" + ("" if one.low is None else f" [{one.low:.3g}, {one.high:.3g}]")


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = ["<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in body]
    return f"<table>{''.join(lines)}</table>" if body else ""
