"""Fills the tables of docs/judges.md and draws docs/judges_*.svg: `python docs/judges.py`, after examples/toy_judge.sh.

Numbers are read from benchmarks/results/toy, curves from the runs in outputs/judges and outputs/toy. Needs matplotlib.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pages
from pages import DOCS, RESULTS

OUTPUTS = DOCS.parent / "outputs"
SEEDS = (0, 1, 2)
DIMENSIONS = ("VQ", "MQ", "TA")
CLIPS = {"drawn": "judge_agreement_toy_data", "the small model's": "judge_agreement_toy_model"}
NAMES = {
    "before": "the one shipped before, whose tower had not seen the model's clips",
    "examples/toy_judge": "the shipped judge",
    "outputs/judges/toy_2/weights": "one of another seed",
    "their mean": "the mean of these two",
    "the truth": "the truth itself",
}
TINTED = {"grey": "shown in grey", "colour": "shown in colour"}
REWARDED = {
    "ta": "text alignment",
    "all": "all three",
    "vq": "visual quality",
    "mq": "motion quality",
    "ensemble_ta": "text alignment, the mean of two judges",
    "ensemble_all": "all three, the mean of two judges",
    "truth": "the truth, no judge",
}
SCORES = ("colour", "shape", "motion", "all", "alignment_reward", "motion_reward", "sharpness")
TRUTH = ("alignment", "motion", "sharpness")


def main() -> None:
    """Tables of what was scored, and pictures of what was logged."""
    page = DOCS / "judges.md"
    text = page.read_text(encoding="utf-8")
    tables = {"agreement": agreement(), "tint": tint(), "grpo": rewarded(), "truth": against_truth()}
    for name, content in tables.items():
        text = pages.filled(text, name, content)
    page.write_text(text, encoding="utf-8")
    draw_tint("judges_tint.svg")
    draw_rewards("judges_grpo.svg")


def agreement() -> str:
    """Correlations with held-out ratings."""
    rows = [["clips", "", *DIMENSIONS]]
    for clips, file in CLIPS.items():
        found = pages.read_json(RESULTS / f"earlier_{file}.json") | pages.read_json(RESULTS / f"{file}.json")
        for name, label in NAMES.items():
            cells = [found[name][dimension] for dimension in DIMENSIONS]
            told = [f"{one['pearson']:.2f} ({one['pearson_low']:.2f} to {one['pearson_high']:.2f})" for one in cells]
            rows.append([clips, label, *told])
    return pages.table(rows)


def tint() -> str:
    """The correlation of judges of motion at the end of training."""
    rows = [["", *(f"seed {seed}" for seed in SEEDS)]]
    for name, label in TINTED.items():
        rows.append([label, *(f"{_validations(name, seed)[-1]['validation/MQ_correlation']:.2f}" for seed in SEEDS)])
    return pages.table(rows)


def _validations(name: str, seed: int) -> list[dict[str, Any]]:
    lines = pages.read_metrics(OUTPUTS / "judges" / f"{name}_{seed}")
    return [line for line in lines if "validation/MQ_correlation" in line]


def draw_tint(name: str) -> None:
    """Figure 20 of the report: validation while a judge of motion is trained, on grey videos and on coloured ones."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    for (variant, label), colour in zip(TINTED.items(), ("C7", "C3"), strict=True):
        for seed in SEEDS:
            lines = _validations(variant, seed)
            steps = [line["step"] for line in lines]
            for axis, value in zip(axes, ("validation_loss", "validation/MQ_correlation"), strict=True):
                axis.plot(steps, [line[value] for line in lines], colour, label=label if seed == 0 else None)
    for axis, title in zip(axes, ("validation loss", "correlation with held-out ratings"), strict=True):
        axis.set(title=title, xlabel="step")
        axis.legend()
    figure.tight_layout()
    pages.save(figure, DOCS / name)


def _runs() -> dict[str, list[Path]]:
    """The runs of GRPO by what they were rewarded with."""
    found = {name: [OUTPUTS / "toy" / f"grpo_judge_{name}_{seed}" for seed in SEEDS] for name in REWARDED}
    return {name: [run for run in runs if run.exists()] for name, runs in found.items()}


def rewarded() -> str:
    """Scores of held-out captions before and after."""
    rows = [["rewarded with", *(name.replace("_", " ") for name in SCORES)]]
    files = {"nothing: the fine-tuned model": [RESULTS / "grpo_judge_before.json"]}
    for judge, note in {"judge": "", "earlier_judge": ", the judge before"}.items():
        for name, label in REWARDED.items():
            files[label + note] = [RESULTS / f"grpo_{judge}_{name}_{seed}.json" for seed in SEEDS]
    for label, paths in files.items():
        scores = [pages.read_json(path)["measured"] for path in paths if path.exists()]
        if scores:
            rows.append([label, *(pages.spread([each[name] for each in scores]) for name in SCORES)])
    return pages.table(rows)


def against_truth() -> str:
    """What the judge and the readers gave the first and the last rollouts."""
    judged = ("vq", "mq", "ta")
    rows = [["rewarded with", *(f"judge: {name}" for name in judged), *(f"truth: {name}" for name in TRUTH)]]
    for name, runs in _runs().items():
        if runs:
            lines = [_rollouts(run) for run in runs]
            rows.append([REWARDED[name], *(_change(lines, f"reward/{one}") for one in (*judged, *TRUTH))])
    return pages.table(rows)


def _rollouts(run: Path) -> list[dict[str, Any]]:
    """What was logged of each rollout's first step."""
    return [line for line in pages.read_metrics(run) if line["seconds/rollout"] > 0]


def _change(runs: Sequence[Sequence[Mapping[str, Any]]], name: str) -> str:
    if name not in runs[0][0]:
        return ""
    first, last = (np.mean([[line[name] for line in part] for part in parts]) for parts in _ends(runs))
    return f"{first:.2f} to {last:.2f}"


def _ends(runs: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[list[Any], list[Any]]:
    return [run[:4] for run in runs], [run[-4:] for run in runs]


def draw_rewards(name: str) -> None:
    """The judge's rewards and the truth they stand for, over training."""
    pairs = (("ta", "alignment"), ("mq", "motion"), ("vq", "sharpness"))
    figure, axes = plt.subplots(2, len(pairs), figsize=(11, 5.5), sharex=True)
    for number, (variant, runs) in enumerate(_runs().items()):
        for run in runs:
            lines = _rollouts(run)
            for column, pair in enumerate(pairs):
                for row, value in enumerate(pair):
                    if f"reward/{value}" in lines[0]:
                        curve = pages.smooth([line[f"reward/{value}"] for line in lines])
                        label = REWARDED[variant] if run == runs[0] else None
                        axes[row, column].plot(range(1, len(curve) + 1), curve, f"C{number}", label=label)
    for column, (judged, true) in enumerate(pairs):
        axes[0, column].set(title=f"the judge: {judged}")
        axes[1, column].set(title=f"the truth: {true}", xlabel="rollout")
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="lower center", ncols=4)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    pages.save(figure, DOCS / name)


if __name__ == "__main__":
    main()
