"""Draws docs/streaming_drift.svg and fills the tables of docs/streaming.md, after examples/toy_stream.sh.

Scores are read from benchmarks/results/toy. Needs matplotlib.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pages
from pages import DOCS, RESULTS

WAYS = {
    "self-forcing, 4 steps": "four",
    "its part of clips that change: 4 steps": "changing_four",
    "its part of clips of one motion: 4 steps": "plain_four",
    "likewise, 2 steps": "plain_two",
    "causal, clips that change: 16 steps, guidance 4": "changing_causal_16",
    "causal, clips of one motion: 16 steps, guidance 4": "plain_causal_16",
    "causal, clips that change: 4 steps, guidance 4": "causal_4",
    "not causally trained, 4 steps": "untrained",
}
SWITCHES = {**WAYS, "self-forcing, 4 steps, another colour": "colour"}
TRAINED = {"a noise level for each chunk": "plain_causal_16", "one noise level for all chunks": "plain_one_level"}
WINDOWS = {
    "sink 1, ring 3": "four",
    "sink 0, ring 4": "sink_0_ring_4",
    "sink 1, ring 1": "sink_1_ring_1",
    "sink 1, ring 4": "sink_1_ring_4",
    "sink 1, ring 8": "sink_1_ring_8",
}
CAPTION = ("colour", "shape", "motion", "all")
SWITCH = ("obeyed", "obeyed_moves", "obeyed_scales", "obeyed_turns", "after_colour", "after_shape", "after_all")
STAYS = ("last_colour_drift", "last_sharpness_drift", "last_within", "always_within", "last_shape", "last_motion")


def main() -> None:
    """Tables of what was scored, and the curves of drift."""
    page = DOCS / "streaming.md"
    text = page.read_text(encoding="utf-8")
    for name, content in {
        "captions": captions(),
        "switch": scored(SWITCHES, "switch_", SWITCH),
        "drift": drift(),
        "trained": joined(TRAINED, {"": CAPTION}),
        "windows": joined(WINDOWS, {"switch_": ("before_motion", "obeyed", "after_shape"), "drift_": STAYS}),
    }.items():
        text = pages.filled(text, name, content)
    page.write_text(text, encoding="utf-8")
    if _read("long"):
        draw_drift(DOCS / "streaming_drift.svg")


def captions() -> str:
    """Streams, and the chunkless model that they are compared with."""
    clips = pages.read_json(RESULTS / "t2v_16_steps_undistilled.json")
    rows = {"whole clips, 16 steps, guidance 4": clips["measured"]}
    rows["whole clips, distilled, 16 steps"] = pages.read_json(RESULTS / "t2v_16_steps.json")["measured"]
    rows |= {label: found["measured"] for label, name in WAYS.items() if (found := _read(name))}
    rows["true clips through the autoencoder"] = clips["true"]
    return _table(rows, CAPTION)


def scored(ways: Mapping[str, str], prefix: str, columns: Sequence[str]) -> str:
    """A row for each way that was scored."""
    found = {label: _read(prefix + name) for label, name in ways.items()}
    rows = {label: result["measured"] for label, result in found.items() if result}
    return _table(rows, columns)


def drift() -> str:
    """Streams of 1,000 and 200 chunks, and the continued video."""
    ways = {"self-forcing, 4 steps, 1,000 chunks": "long"}
    ways |= {f"{label}, 200 chunks": f"drift_{name}" for label, name in WAYS.items()}
    ways |= {"clip after clip, 16 steps, 200 chunks": "continuation"}
    rows = {label: found["measured"] for label, name in ways.items() if (found := _read(name))}
    if not (long := _read("long")):
        return _table(rows, STAYS)
    rows["the true scenes, 1,000 chunks"] = long["true"]
    pictures = (
        "![drift of colour and sharpness](streaming_drift.svg)\n\n![streams of 1,000 chunks](toy/stream_long.png)"
    )
    return f"{_table(rows, STAYS)}\n\n{pictures}"


def joined(ways: Mapping[str, str], columns: Mapping[str, Sequence[str]]) -> str:
    """A row for each way, with columns of several scores of it."""
    rows = {}
    for label, name in ways.items():
        row: dict[str, Any] = {}
        for prefix, names in columns.items():
            measured = _read(prefix + name).get("measured", {})
            row |= {column: measured[column] for column in names if column in measured}
        rows |= {label: row} if row else {}
    return _table(rows, [name for names in columns.values() for name in names])


def _read(name: str) -> dict[str, Any]:
    path = RESULTS / f"stream_{name}.json"
    return pages.read_json(path) if path.exists() else {}


def _table(rows: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Columns that no row has are left out."""
    columns = [name for name in columns if any(name in row for row in rows.values())]
    if not columns:
        return "Not run yet."
    heads = ["", *(name.replace("_", " ") for name in columns)]
    return pages.table(
        [heads, *([label, *(pages.told(row.get(name)) for name in columns)] for label, row in rows.items())]
    )


def draw_drift(path: Path) -> None:
    """Mean colour and sharpness of every ten chunks, relative to the first ten."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    ways = {
        "self-forcing, 4 steps": "long",
        "clip after clip, 16 steps": "continuation",
        "no sink": "drift_sink_0_ring_4",
    }
    drawn = {label: curves for label, name in ways.items() if (curves := _read(name).get("curves"))}
    for panel, (measure, limit) in zip(panels, {"colour": 3, "sharpness": 10}.items(), strict=True):
        for number, (label, curves) in enumerate(drawn.items()):
            chunks = 10 * np.arange(1, len(curves["colour_drift"]) + 1)
            panel.plot(chunks, np.abs(curves[f"{measure}_drift"]), color=f"C{number}", label=f"{label}, mean")
            worst = curves[f"most_{measure}_drift"]
            panel.plot(chunks, worst, ":", color=f"C{number}", linewidth=0.9, label=f"{label}, worst stream")
        panel.axhline(limit, color="grey", linewidth=0.8)
        panel.set(xlabel="chunk", ylabel=f"{measure}, % from the first ten chunks")
    panels[0].legend(fontsize=7, frameon=False)
    pages.save(figure, path)


if __name__ == "__main__":
    main()
