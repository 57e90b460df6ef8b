"""Several runs of one suite side by side: paired differences with intervals, by score, category and prompt."""

import dataclasses
from collections.abc import Mapping, Sequence

from lcv_jax.evaluation import statistics
from lcv_jax.evaluation.measures import MEASURES
from lcv_jax.evaluation.runs import Run
from lcv_jax.evaluation.scores import read_scores
from lcv_jax.evaluation.statistics import Difference, Estimate

Key = tuple[str, str]
"""The scorer's name and the score's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """What runs have in common, and how they differ there."""

    runs: tuple[Run, ...]
    items: tuple[str, ...]
    """Prompts that all runs have; all numbers are over them."""
    notes: tuple[str, ...]
    """What is left out, or failed."""
    values: Mapping[Key, Mapping[str, Mapping[str, float]]]
    """By score, run and item."""

    def estimates(self, key: Key) -> dict[str, Estimate]:
        """The mean of every run."""
        return {run: statistics.mean_estimate(list(by.values())) for run, by in self.values[key].items()}

    def difference(self, key: Key, a: str, b: str) -> Difference:
        """A minus B."""
        return statistics.paired_difference(self.values[key][a], self.values[key][b])

    def by_category(self, key: Key) -> dict[str, dict[str, Estimate]]:
        """The means of every run by category."""
        categories: dict[str, list[str]] = {}
        for item in self.runs[0].suite.items:
            for category in item.categories:
                categories.setdefault(category, []).append(item.id)
        found = {}
        for category, items in categories.items():
            chosen = {run: [by[item] for item in items if item in by] for run, by in self.values[key].items()}
            if all(chosen.values()):
                found[category] = {run: statistics.mean_estimate(values) for run, values in chosen.items()}
        return found


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Reads all scores and keeps prompts and scores that every run has.

    Raises:
        ValueError: runs of the same name, without a prompt or a score in common.
    """
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"runs are told apart by their folders' names, got {', '.join(names)}")
    prompts = [{video.item.id: video.item.prompt for video in run.videos} for run in runs]
    common = [item for item in prompts[0] if all(one.get(item) == prompts[0][item] for one in prompts)]
    if not common:
        raise ValueError(f"{', '.join(names)} have no prompt in common")
    notes = [
        f"{run.name}: {len(own) - len(common)} of {len(own)} prompts are not in all runs and are left out"
        for run, own in zip(runs, prompts, strict=True)
        if len(own) > len(common)
    ]
    notes += [f"{run.name}: {len(run.missing)} prompts of its suite have no video" for run in runs if run.missing]
    values: dict[Key, dict[str, dict[str, float]]] = {}
    for run in runs:
        for scores in read_scores(run):
            if scores.failures:
                notes.append(f"{run.name}: {len(scores.failures)} videos have no score of {scores.name}")
            for score, by_item in scores.by_item(run).items():
                kept = {item: by_item[item] for item in common if item in by_item}
                values.setdefault((scores.name, score), {})[run.name] = kept
    shared = {key: by for key, by in values.items() if len(by) == len(runs) and _paired(by)}
    if not shared:
        raise ValueError(f"{', '.join(names)} have no score in common; run `evaluate measure` or `evaluate judge`")
    return Comparison(runs=tuple(runs), items=tuple(common), notes=tuple(notes), values=shared)


def _paired(by_run: Mapping[str, dict[str, float]]) -> bool:
    """Keeps the items that all runs have a score of; whether there are any."""
    both = set.intersection(*(set(by) for by in by_run.values()))
    for by in by_run.values():
        for item in by.keys() - both:
            del by[item]
    return bool(both)


def meaning(key: Key) -> str:
    """Which direction is better; of a judge it is upwards."""
    return MEASURES[key[1]].better if key[0] == "measures" and key[1] in MEASURES else "higher"


def direction(key: Key) -> str:
    """In words."""
    better = meaning(key)
    return "tells how to read the others" if better == "neither" else f"{better} is better"


def verdict(difference: Difference, key: Key, a: str, b: str) -> str:
    """Who is better, or that no difference is to be seen."""
    better = meaning(key)
    if not difference.is_clear or better == "neither":
        return difference.verdict(a, b)
    first = (difference.estimate.mean > 0) == (better == "higher")
    return f"{a if first else b} is better"


def lines_of_comparison(found: Comparison) -> list[str]:
    """The comparison as text: means, and the first run minus each other one."""
    first, *others = (run.name for run in found.runs)
    lines = [f"{len(found.items)} prompts in common", *(f"note: {note}" for note in found.notes)]
    for key in found.values:
        lines += [
            "",
            f"{key[0]}: {key[1]} ({meaning(key)} is better)".replace("(neither is better)", "(no better or worse)"),
        ]
        lines += [f"  {run:20} {estimate}" for run, estimate in found.estimates(key).items()]
        for other in others:
            difference = found.difference(key, first, other)
            lines.append(f"  {first} - {other}: {difference.estimate}: {verdict(difference, key, first, other)}")
    return lines
