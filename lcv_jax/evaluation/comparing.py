"""Several runs of one suite side by side: paired differences with intervals, by score, category and prompt."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence

from lcv_jax.evaluation import statistics
from lcv_jax.evaluation.measures import MEASURES
from lcv_jax.evaluation.runs import Run
from lcv_jax.evaluation.scores import Scores, read_scores
from lcv_jax.evaluation.sources import Source
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

    def title(self, key: Key) -> str:
        """The score's name, with the number of prompts where they are not all."""
        count = len(next(iter(self.values[key].values())))
        return f"{key[0]}: {key[1]}" + ("" if count == len(self.items) else f" ({count} prompts)")

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
    scored = [read_scores(run) for run in runs]
    notes += clip_differences(runs, scored, common)
    different, told = _different_makers(runs, scored)
    notes += told
    values: dict[Key, dict[str, dict[str, float]]] = {}
    for run, of_run in zip(runs, scored, strict=True):
        for scores in of_run:
            if scores.failures:
                notes.append(f"{run.name}: {len(scores.failures)} videos have no score of {scores.name}")
            if scores.outdated:
                notes.append(
                    f"{run.name}: {len(scores.outdated)} outdated scores of {scores.name} are left out (their videos, "
                    "prompts or images were replaced, or an older version made them): score again"
                )
            for score, by_item in scores.by_item(run).items() if scores.name not in different else ():
                kept = {item: by_item[item] for item in common if item in by_item}
                values.setdefault((scores.name, score), {})[run.name] = kept
    shared = {key: by for key, by in values.items() if len(by) == len(runs) and _paired(by)}
    if not shared:
        advice = "; ".join(notes) or "run `evaluate measure` or `evaluate judge`"
        raise ValueError(f"{', '.join(names)} have no score in common: {advice}")
    return Comparison(runs=tuple(runs), items=tuple(common), notes=tuple(notes), values=shared)


def _different_makers(runs: Sequence[Run], scored: Sequence[Sequence[Scores]]) -> tuple[set[str], list[str]]:
    """Names whose scores were not made alike in all runs, and the notes that say so."""
    makers: dict[str, dict[str, str]] = {}
    for run, of_run in zip(runs, scored, strict=True):
        for scores in of_run:
            makers.setdefault(scores.name, {})[run.name] = json.dumps(scores.made_by, sort_keys=True)
    different = {name: by_run for name, by_run in makers.items() if len(set(by_run.values())) > 1}
    return set(different), [
        f"{name} is not compared, its scores were made differently ({_each(by_run)}): score these runs alike"
        for name, by_run in different.items()
    ]


def clip_differences(runs: Sequence[Run], scored: Sequence[Sequence[Scores]], common: Sequence[str]) -> list[str]:
    """In what the runs' clips of the same prompts differ, apart from what they show: a note for each property.

    Args:
        runs: the runs.
        scored: scores of each, which know what they are of.
        common: prompts.
    """
    by_run = []
    for run, of_run in zip(runs, scored, strict=True):
        sources = {video: source for scores in of_run for video, source in scores.sources.items()}
        samples: dict[str, list[Source | None]] = {}
        for video in run.videos:
            samples.setdefault(video.item.id, []).append(sources.get(video.id))
        by_run.append(samples)
    notes = []
    for name, shown in _PROPERTIES.items():
        examples = []
        for item in common:
            found = {run.name: shown(samples[item]) for run, samples in zip(runs, by_run, strict=True)}
            if len({value for value in found.values() if value}) > 1:
                examples.append(f"{item}: {_each(found)}")
        if examples:
            notes.append(f"{len(examples)} of {len(common)} prompts have clips of different {name} ({examples[0]})")
    languages = {run.name: run.language for run in runs if run.language}
    if len(set(languages.values())) > 1:
        notes.append(f"the prompts were sampled in different languages ({_each(languages)})")
    return notes


def _of_each(shown: Callable[[Source], str]) -> Callable[[Sequence[Source | None]], str]:
    """A property of an item's samples, in which they may differ, too."""
    return lambda samples: ", ".join(sorted({shown(one) for one in samples if one is not None}))


_PROPERTIES: dict[str, Callable[[Sequence[Source | None]], str]] = {
    "length": _of_each(lambda one: f"{one.num_frames} frames"),
    "size": _of_each(lambda one: f"{one.height} x {one.width}"),
    "frame rate": _of_each(lambda one: f"{one.fps:g} frames a second"),
    "reference images": _of_each(lambda one: one.image[:8]),
    "number": lambda samples: f"{len(samples)} samples",
}


def _each(by_run: Mapping[str, str]) -> str:
    return "; ".join(f"{run} {value}" for run, value in by_run.items())


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
