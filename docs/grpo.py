"""Draws docs/grpo_*.svg and fills the tables of docs/grpo.md: `python docs/grpo.py`, after examples/toy_grpo.sh.

Scores are read from benchmarks/results/toy, curves from outputs/toy/grpo_runs. Needs matplotlib.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pages
from pages import DOCS, RESULTS, RUNS

SEEDS = (0, 1, 2)
LABELS = {
    "grpo": "as configured",
    "no_reweighting": "no reweighting",
    "group_spread": "group's own deviation",
    "all_steps": "noise at all steps",
    "hackable": "one hackable reward",
    "guarded": "the same beside alignment",
}
ABLATIONS = ("grpo", "no_reweighting", "group_spread", "all_steps")
HACKING = ("grpo", "hackable", "guarded")
SHARES = ("colour", "shape", "texture", "background")
IMAGE_SCORES = (*SHARES, "alignment_reward", "sharpness", "laplacian", "saturation")
VIDEO_SCORES = (*SHARES, "motion", "speed", "all", "alignment_reward", "motion_reward", "flicker")
PICTURES = {"before": "before", "grpo_0": "after", "hackable_0": "hackable", "guarded_0": "guarded"}
CELL = 132
"""Pixels from one image of a sheet to the next."""


def main() -> None:
    """Tables of what was scored, and pictures of what was logged."""
    page = DOCS / "grpo.md"
    text = page.read_text(encoding="utf-8")
    images = {"before": ["before"]} | {label: _seeds(variant) for variant, label in LABELS.items()}
    videos = {"before": ["video_before"], "after, on images": _seeds("video")}
    for name, content in {
        "rewards": rewards(),
        "images": held_out(images, IMAGE_SCORES),
        "videos": held_out(videos, VIDEO_SCORES),
    }.items():
        text = pages.filled(text, name, content)
    page.write_text(text, encoding="utf-8")
    draw("grpo_ablations.svg", ABLATIONS, ("reward/alignment", "reward/sharpness", "kl"))
    draw("grpo_hacking.svg", HACKING, ("reward/hackable_sharpness", "reward/alignment", "kl"))
    draw_pictures("grpo_pictures.png")


def _seeds(variant: str) -> list[str]:
    return [f"{variant}_{seed}" for seed in SEEDS]


def held_out(rows: Mapping[str, Sequence[str]], scores: Sequence[str]) -> str:
    """Scores of captions that were not trained: of several runs the mean, the least and the most."""
    lines = [["", *(name.replace("_", " ") for name in scores)]]
    for label, names in rows.items():
        found = [pages.read_json(RESULTS / f"grpo_{name}.json")["measured"] for name in names]
        lines.append([label, *(pages.spread([each[score] for each in found]) for score in scores)])
    return pages.table(lines)


def rewards() -> str:
    """Mean rewards of the first and the last six rollouts."""
    names = ("alignment", "sharpness", "hackable_sharpness")
    rows = [["", *(name.replace("_", " ") for name in names), "divergence at the end", "minutes a run"]]
    for variant, label in LABELS.items():
        runs = [_rollouts(name) for name in _seeds(variant)]
        cells = [_first_and_last(runs, f"reward/{name}") for name in names]
        seconds = [sum(line["step_seconds"] for line in pages.read_metrics(_run(name))) for name in _seeds(variant)]
        divergence = np.mean([line["kl"] for run in runs for line in run[-6:]])
        rows.append([label, *cells, f"{divergence:.2g}", f"{np.mean(seconds) / 60:.1f}"])
    return pages.table(rows)


def _run(name: str) -> Path:
    return RUNS / "grpo_runs" / name


def _rollouts(name: str) -> list[dict[str, Any]]:
    """What was logged of each rollout's first step."""
    lines = pages.read_metrics(_run(name))
    return [line for line in lines if line["step"] % (len(lines) // 24) == 1]


def _first_and_last(runs: Sequence[Sequence[Mapping[str, Any]]], name: str) -> str:
    if name not in runs[0][0]:
        return ""
    ends = [[np.mean([line[name] for line in part]) for part in (run[:6], run[-6:])] for run in runs]
    (first, last), lasts = np.mean(ends, axis=0), [end[1] for end in ends]
    return f"{first:.3f} to {last:.3f} ({min(lasts):.3f} to {max(lasts):.3f})"


def draw(file: str, variants: Sequence[str], names: Sequence[str]) -> None:
    """Curves over rollouts: the mean of the seeds, and between the least and the most of them."""
    figure, axes = plt.subplots(1, len(names), figsize=(3.6 * len(names), 2.8), layout="constrained")
    for name, panel in zip(names, axes, strict=True):
        for colour, variant in enumerate(LABELS):
            if variant not in variants:
                continue
            runs = [_rollouts(each) for each in _seeds(variant)]
            if name not in runs[0][0]:
                continue
            curves = np.stack([pages.smooth([line[name] for line in run]) for run in runs])
            rollouts = np.arange(1, len(runs[0]) + 1)
            panel.plot(rollouts, curves.mean(axis=0), color=f"C{colour}", label=LABELS[variant], linewidth=1.4)
            panel.fill_between(rollouts, curves.min(axis=0), curves.max(axis=0), color=f"C{colour}", alpha=0.18)
        panel.set(title=name, xlabel="rollout")
        panel.grid(visible=True, alpha=0.3)
    axes[0].legend(fontsize=7, frameon=False)
    pages.save(figure, DOCS / file)


def draw_pictures(file: str) -> None:
    """A row of images of the same captions and noise for each of several runs."""
    figure, axes = plt.subplots(len(PICTURES), 1, figsize=(8, len(PICTURES)), layout="constrained")
    for (name, label), panel in zip(PICTURES.items(), axes, strict=True):
        sheet = plt.imread(RUNS / "grpo_runs" / f"{name}.png")[:, :CELL]
        panel.imshow(np.concatenate(np.split(sheet, len(sheet) // CELL), axis=1))
        panel.set_ylabel(label)
        panel.set(xticks=[], yticks=[])
    figure.savefig(DOCS / file, dpi=132)
    plt.close(figure)


if __name__ == "__main__":
    main()
