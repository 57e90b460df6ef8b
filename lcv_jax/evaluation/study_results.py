"""What a study's ratings say: opinion scores, preferences, agreement between raters, and who failed known answers."""

import csv
import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lcv_jax.evaluation import statistics
from lcv_jax.evaluation.packages import evaluation_package
from lcv_jax.evaluation.ratings import Ratings
from lcv_jax.evaluation.statistics import Difference, Estimate, Preference, Strength
from lcv_jax.evaluation.studies import Study
from lcv_jax.own_files import replacing

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownAnswers:
    """Whether a rater's first answers to items with known ones were right."""

    training: tuple[bool, ...] = ()
    checks: tuple[bool, ...] = ()

    @property
    def flag(self) -> str:
        """What the rater contradicts, if it is all of the training items, or of the checks, that they answered."""
        kinds = {"training item": self.training, "check": self.checks}
        wrong = [f"every {kind}" for kind, right in kinds.items() if right and not any(right)]
        return f"contradicts {' and '.join(wrong)}" if wrong else ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """The results of a study; keys are dimensions, models, or pairs of models."""

    num_ratings: int
    scores: Mapping[tuple[str, str], Estimate]
    """Mean opinion score by model and dimension, of an absolute study."""
    differences: Mapping[tuple[str, str, str], Difference]
    """By both models and dimension, of an absolute study."""
    preferences: Mapping[tuple[str, str, str], Preference]
    """Prompts by both models and dimension, of a pairwise study."""
    strengths: Mapping[str, Mapping[str, Strength] | str]
    """Of more than two models by dimension, or why there are none."""
    agreement: Mapping[str, tuple[float, float | None]]
    """Krippendorff's alpha and, of an absolute study, the ICC of an item's mean, by dimension."""
    known_answers: Mapping[str, KnownAnswers]
    """By rater."""


def rating_rows(ratings: Ratings, exclude: Iterable[str] = ()) -> list[Row]:
    """All answers that count as one long table.

    Args:
        ratings: the database.
        exclude: raters to leave out.

    Raises:
        ValueError: a rater who is not one of the study.
    """
    study, excluded = ratings.study, set(exclude)
    strangers = excluded - {rater.name for rater in study.raters}
    if strangers:
        raise ValueError(f"{', '.join(sorted(strangers))} is no rater of this study")
    rows = []
    for answer in ratings.answers():
        item = study.by_id[answer.item]
        if answer.rater in excluded:
            continue
        low, high = item.expected.get(answer.dimension, (None, None))
        right = None if low is None or high is None else low <= answer.first_score <= high
        rows.append(
            {
                "study": study.digest,
                "kind": study.kind,
                "shown": item.id,
                "role": item.role,
                "item": item.item,
                "categories": "; ".join(item.categories),
                "prompt": item.prompt,
                "model": item.models[0],
                "other_model": item.models[1] if len(item.models) > 1 else None,
                "dimension": answer.dimension,
                "rater": answer.rater,
                "score": answer.score,
                "first_score": answer.first_score,
                "right": right,
                "time": answer.time,
                "seconds": answer.seconds,
            }
        )
    return rows


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Ratings as .parquet or .csv.

    Raises:
        ValueError: another suffix, or no ratings.
        ImportError: Parquet needs pyarrow.
    """
    if not rows:
        raise ValueError("there are no ratings yet")
    if path.suffix == ".parquet":
        table = evaluation_package("pyarrow").Table.from_pylist(list(rows))
        with replacing(path) as partial:
            evaluation_package("pyarrow.parquet").write_table(table, partial)
    elif path.suffix == ".csv":
        with replacing(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        raise ValueError(f"{path}: ratings are written as .parquet or .csv, got {path.suffix or 'no suffix'!r}")


def study_findings(study: Study, rows: Sequence[Row]) -> Findings:
    """The statistics of a study's ratings."""
    rated = [row for row in rows if row["role"] == "rating"]
    means = item_means(rated)
    dimensions = sorted({row["dimension"] for row in rated})
    absolute = study.kind == "absolute"
    preferences = {} if absolute else _preferences(means)
    return Findings(
        num_ratings=len(rated),
        scores=_scores(means) if absolute else {},
        differences=_differences(means) if absolute else {},
        preferences=preferences,
        strengths=_strengths(means, dimensions) if not absolute and len(preferences) > len(dimensions) else {},
        agreement=_agreement(rated, dimensions, absolute),
        known_answers=known_answers_of(rows),
    )


def item_means(rated: Sequence[Row]) -> dict[tuple[str, ...], dict[str, float]]:
    """Means over raters, by (model, dimension) or (model, other, dimension), and then by the suite's item."""
    scores: dict[tuple[str, ...], dict[str, list[int]]] = {}
    for row in rated:
        models = [row["model"], *([row["other_model"]] if row["other_model"] else [])]
        scores.setdefault((*models, row["dimension"]), {}).setdefault(row["item"], []).append(row["score"])
    return {key: {item: float(np.mean(given)) for item, given in by.items()} for key, by in sorted(scores.items())}


def _scores(means: Mapping[tuple[str, ...], Mapping[str, float]]) -> dict[tuple[str, str], Estimate]:
    found = {}
    for (model, dimension), by_item in means.items():
        found[model, dimension] = statistics.mean_estimate(list(by_item.values()))
    return found


def _differences(means: Mapping[tuple[str, ...], Mapping[str, float]]) -> dict[tuple[str, str, str], Difference]:
    found = {}
    for (a, dimension), (b, other) in itertools.combinations(means, 2):
        if dimension == other and means[a, dimension].keys() & means[b, dimension].keys():
            found[a, b, dimension] = statistics.paired_difference(means[a, dimension], means[b, dimension])
    return found


def _preferences(means: Mapping[tuple[str, ...], Mapping[str, float]]) -> dict[tuple[str, str, str], Preference]:
    """Prompts, not ratings, are counted: those of one prompt are not independent."""
    found = {}
    for (a, b, dimension), by_item in means.items():
        signs = [np.sign(mean) for mean in by_item.values()]
        good, same, bad = (sum(sign == wanted for sign in signs) for wanted in (1, 0, -1))
        found[a, b, dimension] = Preference(good=int(good), same=int(same), bad=int(bad))
    return found


def _strengths(
    means: Mapping[tuple[str, ...], Mapping[str, float]], dimensions: Sequence[str]
) -> dict[str, Mapping[str, Strength] | str]:
    found: dict[str, Mapping[str, Strength] | str] = {}
    for dimension in dimensions:
        comparisons = [
            (a, b, float((np.sign(mean) + 1) / 2))
            for (a, b, of), by_item in means.items()
            if of == dimension
            for mean in by_item.values()
        ]
        try:
            found[dimension] = statistics.bradley_terry(comparisons)
        except ValueError as error:
            found[dimension] = str(error)
    return found


def _agreement(
    rated: Sequence[Row], dimensions: Sequence[str], absolute: bool
) -> dict[str, tuple[float, float | None]]:
    raters = {name: place for place, name in enumerate(sorted({row["rater"] for row in rated}))}
    shown = {name: place for place, name in enumerate(sorted({row["shown"] for row in rated}))}
    found: dict[str, tuple[float, float | None]] = {}
    for dimension in dimensions:
        ratings_RI = np.full((len(raters), len(shown)), np.nan)
        for row in rated:
            if row["dimension"] == dimension:
                ratings_RI[raters[row["rater"]], shown[row["shown"]]] = row["score"]
        twice = (~np.isnan(ratings_RI)).sum(axis=0) > 1
        if twice.any():
            several = absolute and (~np.isnan(ratings_RI)).any(axis=0).sum() > 1
            icc = statistics.intraclass_correlation(ratings_RI)[1] if several else None
            found[dimension] = statistics.krippendorff_alpha(ratings_RI), icc
    return found


def known_answers_of(rows: Sequence[Row]) -> dict[str, KnownAnswers]:
    """How raters did on items with known answers."""
    found: dict[str, dict[str, list[bool]]] = {}
    for row in rows:
        of_rater = found.setdefault(row["rater"], {"training": [], "check": []})
        if row["right"] is not None:
            of_rater[row["role"]].append(row["right"])
    return {
        rater: KnownAnswers(training=tuple(given["training"]), checks=tuple(given["check"]))
        for rater, given in sorted(found.items())
    }


def lines_of_findings(found: Findings) -> list[str]:
    """The findings as text."""
    lines = [f"{found.num_ratings} answers" if found.num_ratings else "no ratings yet"]
    if found.scores:
        lines += ["", "mean opinion scores, 1 to 5"]
        lines += [f"  {model:20} {dimension:16} {value}" for (model, dimension), value in found.scores.items()]
    if found.differences:
        lines += ["", "differences on the same prompts"]
        for (a, b, dimension), difference in found.differences.items():
            lines.append(f"  {a} - {b}, {dimension}: {difference.estimate}: {difference.verdict(a, b)}")
    if found.preferences:
        lines += ["", "good, same, bad: prompts"]
        for (a, b, dimension), one in found.preferences.items():
            counts = f"{one.good} {one.same} {one.bad}, net {one.net:+.2f}, win rate {one.win_rate:.1%}"
            lines.append(f"  {a} against {b}, {dimension}: {counts}: {one.verdict(a, b)}")
    for dimension, strengths in found.strengths.items():
        lines += ["", f"Bradley-Terry, {dimension}"]
        if isinstance(strengths, str):
            lines.append(f"  {strengths}")
            continue
        for model, strength in sorted(strengths.items(), key=lambda pair: -pair[1].value):
            lines.append(f"  {model:20} {strength.value:+.2f} [{strength.low:+.2f}, {strength.high:+.2f}]")
    if found.agreement:
        lines += ["", "agreement of raters: Krippendorff's alpha, ICC of an item's mean"]
        for dimension, (alpha, icc) in found.agreement.items():
            lines.append(f"  {dimension:16} {alpha:.2f}  {'' if icc is None else f'{icc:.2f}'}")
    if found.known_answers:
        lines += ["", "known answers, by what was answered first"]
    for rater, known in found.known_answers.items():
        training, checks = (f"{sum(right)} of {len(right)}" for right in (known.training, known.checks))
        flag = f"  FLAGGED: {known.flag}" if known.flag else ""
        lines.append(f"  {rater:20} right in {training} training items, {checks} checks{flag}")
    return lines
