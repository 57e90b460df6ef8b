"""A judge against people: how well it agrees, and the report's score of a model, which takes both 2:1."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

from lcv_jax.evaluation import statistics
from lcv_jax.evaluation.runs import Run
from lcv_jax.evaluation.scores import Scores, read_scores
from lcv_jax.evaluation.statistics import Correlation, Estimate
from lcv_jax.evaluation.study_results import Row, item_means


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """By dimension."""

    correlations: Mapping[str, Correlation | str]
    """Over the clips that both have scored, or why there is none."""
    finals: Mapping[tuple[str, str], Estimate]
    """By model and dimension; only where the judge's scores are on people's scale, 1 to 5."""


def judge_agreement(rows: Sequence[Row], runs: Sequence[Run], name: str, match: Mapping[str, str]) -> Agreement:
    """Compares a judge's scores of runs with the ratings of an absolute study of them.

    Args:
        rows: of `rating_rows`.
        runs: those of the study; the judge may have scored more of their clips than people have.
        name: of the judge's scores in the runs.
        match: the judge's score for each dimension, where it is not called as the dimension.

    Raises:
        ValueError: a run without such scores, a pairwise study, no dimension that the judge scores.
    """
    if any(row["other_model"] for row in rows):
        raise ValueError("agreement with a judge needs an absolute study, this one is pairwise")
    people = item_means([row for row in rows if row["role"] == "rating"])
    if not people:
        raise ValueError("there are no ratings yet")
    scores = [_scores(run, name) for run in runs]
    if len({json.dumps(one.made_by, sort_keys=True) for one in scores}) > 1:
        raise ValueError(f"scores {name!r} of {', '.join(run.name for run in runs)} were made differently: judge alike")
    judged = {run.name: one.by_item(run) for run, one in zip(runs, scores, strict=True)}
    dimensions = sorted({dimension for _, dimension in people})
    named = {dimension: match.get(dimension, dimension) for dimension in dimensions}
    scored = [dimension for dimension in dimensions if all(named[dimension] in by for by in judged.values())]
    if not scored:
        known = ", ".join(sorted(set.intersection(*(set(by) for by in judged.values()))))
        raise ValueError(f"{name} scores {known}; say with --match DIMENSION SCORE which dimension is which")
    correlations: dict[str, Correlation | str] = {}
    finals = {}
    for dimension in scored:
        score, pairs = named[dimension], []
        for run in runs:
            by_people, by_judge = people.get((run.name, dimension), {}), judged[run.name][score]
            pairs += [(by_judge[item], rating) for item, rating in by_people.items() if item in by_judge]
            if by_people and all(1 <= value <= 5 for value in by_judge.values()):
                mixed = statistics.final_estimate(list(by_people.values()), list(by_judge.values()))
                finals[run.name, dimension] = mixed
        try:
            correlations[dimension] = statistics.correlation(*(list(side) for side in zip(*pairs, strict=True)))
        except (ValueError, TypeError) as error:
            correlations[dimension] = str(error) if pairs else "no clip was scored by both"
    return Agreement(correlations=correlations, finals=finals)


def _scores(run: Run, name: str) -> Scores:
    """A judge's scores of a run, all of its videos as they are now."""
    known = {scores.name: scores for scores in read_scores(run)}
    if name not in known:
        raise ValueError(f"{run.folder} has no scores {name!r}; it has {', '.join(known) or 'none'}")
    if outdated := known[name].outdated:
        raise ValueError(
            f"{run.folder}: {len(outdated)} videos were replaced since {name} scored them: score them again"
        )
    return known[name]


def lines_of_agreement(found: Agreement) -> list[str]:
    """The agreement as text."""
    lines = ["judge and people, over clips"]
    for dimension, one in found.correlations.items():
        if isinstance(one, str):
            lines.append(f"  {dimension:16} {one}")
            continue
        interval = f"[{one.pearson_low:.2f}, {one.pearson_high:.2f}]"
        lines.append(
            f"  {dimension:16} Pearson {one.pearson:.2f} {interval}, Spearman {one.spearman:.2f}, n = {one.count}"
        )
    if found.finals:
        lines += ["", "people and judge, 2:1"]
        lines += [f"  {model:20} {dimension:16} {value}" for (model, dimension), value in found.finals.items()]
    return lines
