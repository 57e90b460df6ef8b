"""Draws docs/grpo_*.svg and fills the tables of docs/grpo.md: `python docs/grpo.py`, after examples/toy_grpo.sh.

Scores are read from benchmarks/results/toy, curves from outputs/toy/grpo_runs. Needs matplotlib.
"""

from collections.abc import Mapping, Sequence
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
    "guarded": "the same beside alignment and motion",
}
ABLATIONS = ("grpo", "no_reweighting", "group_spread", "all_steps")
HACKING = ("grpo", "hackable", "guarded")
SCORES = ("colour", "shape", "motion", "speed", "all", "sharpness", "laplacian", "motion_energy", "flicker")


def main() -> None:
    """Tables of what was scored, and pictures of what was logged."""
    page = DOCS / "grpo.md"
    text = pages.filled(page.read_text(encoding="utf-8"), "held-out", held_out())
    page.write_text(pages.filled(text, "rewards", rewards()), encoding="utf-8")
    draw("grpo_ablations.svg", ABLATIONS, ("reward/alignment", "reward/motion", "kl", "advantage_spread"))
    draw("grpo_hacking.svg", HACKING, ("reward/hackable_sharpness", "reward/alignment", "reward/motion", "kl"))


def held_out() -> str:
    """Scores of captions that were not trained, before and after: of three seeds the mean, the least and the most."""
    rows = [["", *(name.replace("_", " ") for name in SCORES)]]
    for label, name in {"before": "t2v_8_steps_without_guidance", "before, 50 steps, guidance 4": "t2v_sft"}.items():
        measured = pages.read_json(RESULTS / f"{name}.json")["measured"]
        rows.append([label, *(_number(_value(measured[score]), score) for score in SCORES)])
    for variant, label in LABELS.items():
        found = [pages.read_json(RESULTS / f"grpo_{variant}_{seed}.json")["measured"] for seed in SEEDS]
        rows.append([label, *(_spread([_value(each[score]) for each in found], score) for score in SCORES)])
    return pages.table(rows)


def rewards() -> str:
    """Mean rewards of the first and the last ten rollouts."""
    names = ("alignment", "motion", "sharpness", "hackable_sharpness")
    rows = [["", *(name.replace("_", " ") for name in names), "divergence at the end", "minutes a run"]]
    for variant, label in LABELS.items():
        runs = [pages.read_metrics(RUNS / "grpo_runs" / f"{variant}_{seed}") for seed in SEEDS]
        cells = [_first_and_last(runs, f"reward/{name}") for name in names]
        minutes = np.mean([sum(line["step_seconds"] for line in run) for run in runs]) / 60
        rows.append([label, *cells, f"{np.mean([run[-1]['kl'] for run in runs]):.2g}", f"{minutes:.0f}"])
    return pages.table(rows)


def _first_and_last(runs: Sequence[Sequence[Mapping[str, Any]]], name: str) -> str:
    if name not in runs[0][0]:
        return ""
    ends = [[np.mean([line[name] for line in part]) for part in (run[:10], run[-10:])] for run in runs]
    (first, last), lasts = np.mean(ends, axis=0), [end[1] for end in ends]
    return f"{first:.3f} to {last:.3f} ({min(lasts):.3f} to {max(lasts):.3f})"


def _value(measured: Mapping[str, float]) -> float:
    return measured["percent"] if "percent" in measured else measured["mean"]


def _number(value: float, score: str) -> str:
    return f"{value:.0f} %" if score in SCORES[:5] else f"{value:.3g}"


def _spread(values: Sequence[float], score: str) -> str:
    least, most = _number(min(values), score), _number(max(values), score)
    return f"{_number(float(np.mean(values)), score)} ({least.removesuffix(' %')} to {most})"


def draw(file: str, variants: Sequence[str], names: Sequence[str]) -> None:
    """Curves over rollouts: the mean of the seeds, and between the least and the most of them."""
    figure, axes = plt.subplots(1, len(names), figsize=(3.6 * len(names), 2.8), layout="constrained")
    for name, panel in zip(names, axes, strict=True):
        for colour, variant in enumerate(LABELS):
            runs = [pages.read_metrics(RUNS / "grpo_runs" / f"{variant}_{seed}") for seed in SEEDS]
            if variant not in variants or name not in runs[0][0]:
                continue
            curves = np.stack([pages.smooth([line[name] for line in run]) for run in runs])
            steps = [line["step"] for line in runs[0]]
            panel.plot(steps, curves.mean(axis=0), color=f"C{colour}", label=LABELS[variant], linewidth=1.4)
            panel.fill_between(steps, curves.min(axis=0), curves.max(axis=0), color=f"C{colour}", alpha=0.18)
        panel.set(title=name, xlabel="rollout")
        panel.grid(visible=True, alpha=0.3)
    axes[0].legend(fontsize=7, frameon=False)
    pages.save(figure, DOCS / file)


if __name__ == "__main__":
    main()
