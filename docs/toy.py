"""Draws docs/toy_*.svg and fills the tables of docs/toy.md: `python docs/toy.py`, after examples/toy_scores.sh.

Scores are read from benchmarks/results/toy, curves from outputs/toy/*/metrics.jsonl. Needs matplotlib.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pages
from pages import DOCS, RESULTS, RUNS

STAGES = (
    "vae_1",
    "vae_2",
    "vae_3",
    "pretrain_1",
    "pretrain_2",
    "pretrain_3",
    "sft",
    "cfg_distillation",
    "consistency_distillation",
    "refinement_dense",
    "refinement_sparse",
    "consistency_distillation_8",
    "consistency_distillation_4",
    "pretrain_3_without_noise",
)
CAPTIONED = ("t2v_sft", "i2v", "vc", "refine")
"""Scores whose pictures tell their captions."""
CAPTION = ("colour", "shape", "motion", "speed", "texture", "background", "all")
TABLES: Mapping[str, tuple[Mapping[str, str], Sequence[str]]] = {
    "t2v": (
        {
            "pretraining 2 (T2I, T2V)": "t2v_pretrain_2",
            "pretraining 3 (all tasks)": "t2v_pretrain_3",
            "fine-tuned, 50 steps, guidance 4": "t2v_sft",
            "50 steps, no guidance": "t2v_without_guidance",
            "16 steps, guidance 4": "t2v_16_steps_undistilled",
            "CFG-distilled, 50 steps": "t2v_cfg_distilled",
            "distilled, 16 steps": "t2v_16_steps",
            "distilled, 8 steps": "t2v_8_steps",
            "distilled, 4 steps": "t2v_4_steps",
        },
        CAPTION,
    ),
    "quality": (
        {
            "fine-tuned, 50 steps, guidance 4": "t2v_sft",
            "distilled, 16 steps": "t2v_16_steps",
            "distilled, 8 steps": "t2v_8_steps",
            "distilled, 4 steps": "t2v_4_steps",
        },
        ("sharpness", "flicker", "motion_energy", "saturation"),
    ),
    "i2v": ({"image to video": "i2v"}, ("first_frame_psnr", "first_seam", *CAPTION)),
    "vc": ({"continuation": "vc"}, ("motion_kept", "seam_jump", "psnr_to_true", "psnr_of_last_frame")),
    "long": (
        {"noise on the condition": "long", "clean condition": "long_without_noise"},
        (
            "continued_last_drift",
            "continued_most_drift",
            "continued_within_3",
            "from_single_frames_last_drift",
            "from_single_frames_most_drift",
            "from_single_frames_within_3",
        ),
    ),
    "refine": (
        {"refined": "refine"},
        (
            "upsampled_psnr",
            "dense_psnr",
            "sparse_psnr",
            "decoded_psnr",
            "sparse_gain_over_upsampled",
            "sparse_gain_over_dense",
            "upsampled_sharpness",
            "dense_sharpness",
            "sparse_sharpness",
            "decoded_sharpness",
            "true_sharpness",
        ),
    ),
}


def main() -> None:
    """Tables of what was scored, and pictures of what was logged."""
    page = DOCS / "toy.md"
    text = page.read_text(encoding="utf-8")
    for name, (rows, columns) in TABLES.items():
        results = {label: pages.read_json(RESULTS / f"{file}.json") for label, file in rows.items()}
        text = pages.filled(text, name, table(results, columns))
    text = pages.filled(text, "stages", stages())
    for name in CAPTIONED:
        captions = pages.read_json(RESULTS / f"{name}.json")["captions"]
        text = pages.filled(text, f"captions {name}", "Rows: " + "; ".join(captions[:8]) + ".")
    page.write_text(text, encoding="utf-8")
    draw_curves(DOCS / "toy_curves.svg")
    draw_drift(DOCS / "toy_drift.svg")


def stages() -> str:
    """What each stage took, and where its loss began and ended."""
    rows = [["stage", "steps", "minutes", "loss, first and last 100 steps"]]
    for stage in STAGES:
        logged = pages.read_metrics(RUNS / stage)
        first, last = ([line["loss"] for line in part] for part in (logged[:4], logged[-4:]))
        link, losses = f"[{stage}](../configs/toy/{stage}.py)", f"{np.mean(first):.3g}, {np.mean(last):.3g}"
        rows.append([link, f"{logged[-1]['step']:,}", f"{_minutes(logged):.0f}", losses])
    return pages.table(rows)


def _minutes(logged: Sequence[Mapping[str, float]]) -> float:
    steps = np.diff([line["step"] for line in logged], prepend=0)
    return float(np.sum(steps * [line["step_seconds"] for line in logged])) / 60


def table(results: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A row for each result, and one for true clips through the autoencoder; with few rows, turned."""
    rows = {
        label: {name: pages.told(result["measured"].get(name)) for name in columns} for label, result in results.items()
    }
    true = next(iter(results.values()))["true"]
    if any(name in true for name in columns):
        rows["true clips through the autoencoder"] = {name: pages.told(true.get(name)) for name in columns}
    heads = [name.replace("_", " ") for name in columns]
    if len(rows) < 4:
        lines = [["", *rows]] + [
            [head, *(row[name] for row in rows.values())] for head, name in zip(heads, columns, strict=True)
        ]
    else:
        lines = [["", *heads]] + [[label, *row.values()] for label, row in rows.items()]
    return pages.table(lines)


def draw_curves(path: Path) -> None:
    """The loss of each stage, smoothed, over the minutes that it took."""
    figure, axes = plt.subplots(-(-len(STAGES) // 4), 4, figsize=(14, 2.6 * -(-len(STAGES) // 4)), layout="constrained")
    for panel in axes.flat[len(STAGES) :]:
        panel.axis("off")
    for stage, panel in zip(STAGES, axes.flat, strict=False):
        lines = pages.read_metrics(RUNS / stage)
        steps = [line["step"] for line in lines]
        for name in sorted({name for line in lines for name in line if name.startswith("loss/")}):
            found = [(step, line[name]) for step, line in zip(steps, lines, strict=True) if line.get(name) is not None]
            x, y = np.array(found).T
            panel.plot(x, pages.smooth(y), label=name.removeprefix("loss/"), linewidth=1.2)
        panel.set(title=f"{stage}, {_minutes(lines):.0f} min", xlabel="step", yscale="log")
        panel.grid(visible=True, which="both", alpha=0.3)
        panel.legend(fontsize=7, frameon=False)
    pages.save(figure, path)


def draw_drift(path: Path) -> None:
    """How mean colours move away from the first segment's, by the way that segments are joined."""
    figure, panel = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for label, name in {"noise on the condition": "long", "clean condition": "long_without_noise"}.items():
        curves = pages.read_json(RESULTS / f"{name}.json")["curves"]
        style = "-" if name == "long" else "--"
        panel.plot(curves["continued_drift"], style, color="C0", label=f"continued from 9 frames, {label}")
        panel.plot(curves["from_single_frames_drift"], style, color="C1", label=f"from single frames, {label}")
    panel.axhline(3, color="grey", linewidth=0.8)
    panel.set(xlabel="segment", ylabel="drift of the mean colour, %")
    panel.legend(fontsize=7, frameon=False)
    pages.save(figure, path)


if __name__ == "__main__":
    main()
