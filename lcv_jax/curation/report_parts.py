"""Parts of the report's page: bars, histograms, the map, tables, pictures of clips. Nothing here reads a library."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from lcv_jax.data.frames import media_package
from lcv_jax.data.media_reader import open_clip
from lcv_jax.extras import import_extra

COLOURS = ("#3056d3", "#d9822b", "#2a9d5c", "#a3359b", "#6b7280", "#c0392b", "#0e8f9e", "#8a6d1a")
STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; overflow-wrap: anywhere; }
h2 { margin-top: 2.2rem; } h3 { margin: 1.2rem 0 .2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { border: 1px solid #8886; padding: .2rem .6rem; text-align: left; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; display: block; } svg text { fill: currentColor; font: 12px system-ui, sans-serif; }
.map text { paint-order: stroke; stroke: Canvas; stroke-width: 4px; }
.bar { display: flex; height: .9rem; margin: .1rem 0 .6rem; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
.grid figure, .wall figure { margin: 0; min-width: 0; }
.wall { display: grid; gap: .5rem; grid-template-columns: repeat(auto-fill, minmax(min(46%, 9rem), 1fr)); }
.wall img { width: 100%; aspect-ratio: 16 / 9; object-fit: contain; background: #0003; display: block; }
.dropped img { outline: 3px solid #c0392b; outline-offset: -3px; }
.kept img { outline: 3px solid #2a9d5c; outline-offset: -3px; }
figcaption { font-size: .8rem; } .note { opacity: .8; }
"""
_PICTURE_SIDE = 192
"""Pixels of a picture's longer side."""


def text(value: object) -> str:
    """As HTML shows it; numbers with four digits."""
    return html.escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def page(title: str, parts: Sequence[str]) -> str:
    """The whole page, which asks for nothing else."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head>\n<body>{''.join(parts)}</body></html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table that scrolls by itself where the screen is narrow."""
    lines = ["<tr>" + "".join(f"<th>{text(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def funnel(steps: Sequence[tuple[str, int, int]]) -> str:
    """Bars of what is left after each rule (name, kept, dropped), what it dropped in red."""
    most, rows = max(1, steps[0][1]), []
    for name, kept, dropped in steps:
        shares = "".join(
            f'<i style="width:{count / most:.2%};background:{colour}"></i>'
            for count, colour in ((kept, COLOURS[0]), (dropped, "#c0392b"))
        )
        rows.append(f'<div>{text(name)}: {kept} kept, {dropped} dropped</div><div class="bar">{shares}</div>')
    return f'<div class="funnel">{"".join(rows)}</div>'


def histogram(
    name: str, meaning: str, counts: Sequence[int], ends: tuple[float, float], limits: Mapping[str, float]
) -> str:
    """A measure's histogram with thresholds as lines.

    Args:
        name: of the measure.
        meaning: in words.
        counts: of bins of one width.
        ends: where the first begins and the last ends.
        limits: thresholds by the names of their rules.
    """
    shown = [*ends, *limits.values()]
    low, high = min(shown), max(shown)
    span, most = (high - low) or 1.0, max(counts)

    def x(value: float) -> float:
        return 320 * (value - low) / span

    step, rows = (ends[1] - ends[0]) / len(counts), []
    for place, count in enumerate(counts):
        left, tall = x(ends[0] + place * step), 90 * count / most
        rows.append(
            f'<rect x="{left:.1f}" y="{100 - tall:.1f}" width="{max(2.0, x(low + step) - 1):.1f}" '
            f'height="{tall:.1f}" fill="{COLOURS[0]}"/>'
        )
    for rule, limit in limits.items():
        anchor = "end" if x(limit) > 160 else "start"
        rows.append(
            f'<path class="threshold" d="M{x(limit):.1f} 0V100" stroke="#c0392b" stroke-width="2"/>'
            f'<text x="{x(limit) + (-4 if anchor == "end" else 4):.1f}" y="10" text-anchor="{anchor}">'
            f"{text(rule)}</text>"
        )
    rows.append(f'<text x="0" y="116">{text(low)}</text><text x="320" y="116" text-anchor="end">{text(high)}</text>')
    return (
        f'<figure><svg class="histogram" viewBox="-2 -2 324 122" role="img">{"".join(rows)}</svg>'
        f"<figcaption><b>{text(name)}</b> {text(meaning)}</figcaption></figure>"
    )


def bars(name: str, counts: Sequence[tuple[str, int]]) -> str:
    """How often each value of a column occurs."""
    most, rows = max(count for _, count in counts), []
    for place, (value, count) in enumerate(counts):
        top = 22 * place
        rows.append(f'<text x="0" y="{top + 14}">{text(value)}</text>')
        rows.append(
            f'<rect x="120" y="{top + 3}" width="{150 * count / most:.1f}" height="14" fill="{COLOURS[0]}"/>'
            f'<text x="{126 + 150 * count / most:.1f}" y="{top + 14}">{count}</text>'
        )
    return (
        f'<figure><svg viewBox="0 0 320 {22 * len(counts)}" role="img">{"".join(rows)}</svg>'
        f"<figcaption><b>{text(name)}</b></figcaption></figure>"
    )


def scatter(
    points: Sequence[tuple[int, float, float]], names: Mapping[int, str], centres: Mapping[int, tuple[float, float]]
) -> str:
    """The map of clusters: a dot for each clip (cluster, x, y), the clusters' names at their centres."""
    xs, ys = [x for _, x, _ in points], [y for _, _, y in points]
    span = max(max(xs) - min(xs), max(ys) - min(ys)) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return 60 + 480 * (x - min(xs)) / span, 20 + 480 * (y - min(ys)) / span

    rows = []
    for cluster, x, y in points:
        left, top = place(x, y)
        rows.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="4" fill="{COLOURS[cluster % len(COLOURS)]}"/>')
    for cluster, (x, y) in centres.items():
        left, top = place(x, y)
        rows.append(f'<text x="{left:.1f}" y="{top:.1f}" text-anchor="middle">{text(names[cluster])}</text>')
    height = 40 + 480 * (max(ys) - min(ys)) / span
    return f'<svg class="map" viewBox="0 0 600 {height:.0f}" role="img">{"".join(rows)}</svg>'


def wall(kind: str, figures: Sequence[tuple[str, str]]) -> str:
    """Pictures (source, caption) of one kind: kept, dropped, or others."""
    found = [
        f'<figure><img src="{source}" alt="" loading="lazy"><figcaption>{text(caption)}</figcaption></figure>'
        for source, caption in figures
    ]
    return f'<div class="wall {kind}">{"".join(found)}</div>'


def picture(path: Path) -> str:
    """A clip's middle frame as a small JPEG within the page; empty where it cannot be read any more."""
    cv2 = import_extra("cv2", "curate", "the report's pictures need")
    try:
        with open_clip(path) as clip:
            frame_HWC = next(clip.pictures([len(clip.timeline) // 2]))
    except (OSError, ValueError, media_package("av").error.FFmpegError):
        return "data:,"
    scale = _PICTURE_SIDE / max(frame_HWC.shape[:2])
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in frame_HWC.shape[:2])
        frame_HWC = cv2.resize(frame_HWC, (width, height), interpolation=cv2.INTER_AREA)
    _, coded = cv2.imencode(".jpg", frame_HWC[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 70])
    return f"data:image/jpeg;base64,{base64.b64encode(coded).decode()}"
