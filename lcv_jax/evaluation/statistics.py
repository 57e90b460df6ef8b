"""How sure one may be: intervals over prompts, preferences, rankings, agreement. No files, no models.

The unit of resampling is the prompt: ratings of one prompt are averaged first, because they are not independent.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lcv_jax.evaluation.packages import evaluation_package

DRAWS = 10_000
"""Bootstrap resamples of an interval."""
VBENCH2_GROUPS = ("creativity", "commonsense", "controllability", "human fidelity", "physics")
"""The five groups of VBench 2.0 whose mean is the total."""
NO_DIFFERENCE = "no difference to be seen"
LEAST_PROMPTS = 6
"""Of a claim: of five prompts that all point one way, the sign test's p is 0.06."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float | None
    """None where a single value allows no interval."""
    high: float | None
    count: int
    """Prompts behind it."""

    def __str__(self) -> str:
        interval = "" if self.low is None else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.mean:.4g}{interval} (n = {self.count})"


def mean_estimate(values: Sequence[float | int] | np.ndarray, *, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """The mean of one value per prompt, with a percentile bootstrap interval over prompts.

    Percentiles are expanded to those of Student's t (Hesterberg 2015), because resamples of n values spread too little,
    by sqrt((n - 1) / n), and have no tails for an unknown variance: without, 12 % of true means lie outside at n = 8.

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    values_N = _finite(values)
    if len(values_N) == 1:
        return Estimate(mean=float(values_N[0]), low=None, high=None, count=1)
    level = _level(len(values_N))
    low, high = np.quantile(_bootstrap_means(values_N, seed, draws), [level, 1 - level])
    return Estimate(mean=float(values_N.mean()), low=float(low), high=float(high), count=len(values_N))


def _level(count: int) -> float:
    """The lower percentile of resampled means that bounds a 95 % interval."""
    stats = evaluation_package("scipy.stats")
    return float(stats.norm.cdf(-math.sqrt(count / (count - 1)) * stats.t.ppf(0.975, count - 1)))


def _bootstrap_means(values_N: np.ndarray, seed: int, draws: int) -> np.ndarray:
    """Means of resamples; a thousand resamples at a time bound the memory."""
    rng, count = np.random.default_rng(seed), len(values_N)
    chunks = [min(1000, draws - first) for first in range(0, draws, 1000)]
    drawn = [values_N[rng.integers(count, size=(chunk, count), dtype=np.int32)].mean(axis=1) for chunk in chunks]
    return np.concatenate(drawn)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """How much higher A scores than B on the same prompts."""

    estimate: Estimate

    @property
    def is_clear(self) -> bool:
        """Whether the 95 % interval excludes zero, of enough prompts to say so."""
        low, high = self.estimate.low, self.estimate.high
        if low is None or high is None or self.estimate.count < LEAST_PROMPTS:
            return False
        # Rounding is no difference.
        least = 1e-12 * max(1.0, abs(self.estimate.mean))
        return low > least or high < -least

    def verdict(self, a: str, b: str) -> str:
        """One phrase: who is higher, or that no difference is to be seen."""
        if self.estimate.count < LEAST_PROMPTS:
            return f"fewer than {LEAST_PROMPTS} prompts, too few to tell"
        if not self.is_clear:
            return NO_DIFFERENCE
        return f"{a} is higher" if self.estimate.mean > 0 else f"{b} is higher"


def paired_difference(a: Mapping[str, float | int], b: Mapping[str, float | int], *, seed: int = 0) -> Difference:
    """The mean of A minus B over the prompts that both have, with its interval.

    Raises:
        ValueError: no prompt is in both.
    """
    common = sorted(a.keys() & b.keys())
    if not common:
        raise ValueError(f"A has {len(a)} prompts and B {len(b)}, none of them in both: compare runs of one suite")
    return Difference(estimate=mean_estimate([a[name] - b[name] for name in common], seed=seed))


def final_score(human: float | int, judge: float | int) -> float:
    """The report's score of a model: its mean from people and its mean from the judge, 2:1.

    Means of a model, not of a prompt: people and judges see different prompts. Both must use the same scale.
    """
    return float(2 * human + judge) / 3


def final_estimate(human: Sequence[float | int], judge: Sequence[float | int], *, seed: int = 0) -> Estimate:
    """`final_score` of the means of people's and the judge's prompts; both are resampled, independently."""
    human_N, judge_N = _finite(human), _finite(judge)
    mean = final_score(float(human_N.mean()), float(judge_N.mean()))
    count, fewest = len(human_N) + len(judge_N), min(len(human_N), len(judge_N))
    if fewest == 1:
        return Estimate(mean=mean, low=None, high=None, count=count)
    drawn = (2 * _bootstrap_means(human_N, seed, DRAWS) + _bootstrap_means(judge_N, seed + 1, DRAWS)) / 3
    low, high = np.quantile(drawn, [_level(fewest), 1 - _level(fewest)])
    return Estimate(mean=mean, low=float(low), high=float(high), count=len(human_N) + len(judge_N))


def sign_test(good: int, bad: int) -> float:
    """The two-sided exact p-value of so many preferences each way if neither were preferred; ties are left out.

    Raises:
        ValueError: a negative count.
    """
    if min(good, bad) < 0:
        raise ValueError(f"counts must be at least 0, got good = {good} and bad = {bad}")
    if good + bad == 0:
        return 1.0
    return float(evaluation_package("scipy.stats").binomtest(good, good + bad).pvalue)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preference:
    """Counts of a good-same-bad comparison of A with B.

    Raises:
        ValueError: a negative count, or no comparison at all.
    """

    good: int
    """A is better."""
    same: int
    bad: int
    """B is better."""

    def __post_init__(self) -> None:
        if min(self.good, self.same, self.bad) < 0 or not self.count:
            raise ValueError(f"counts must be at least 0 and not all 0, got {self.good}, {self.same}, {self.bad}")

    @property
    def count(self) -> int:
        return self.good + self.same + self.bad

    @property
    def net(self) -> float:
        """(good - bad) / all, from -1 to 1."""
        return (self.good - self.bad) / self.count

    @property
    def win_rate(self) -> float:
        """Share of A's wins, a tie being half a win."""
        return (self.good + self.same / 2) / self.count

    @property
    def p_value(self) -> float:
        return sign_test(self.good, self.bad)

    def verdict(self, a: str = "A", b: str = "B") -> str:
        """One phrase: who is preferred, or that it is a tie, with p."""
        if self.p_value >= 0.05:
            return f"tie: {NO_DIFFERENCE} (p = {self.p_value:.2g})"
        return f"{a if self.good > self.bad else b} is preferred (p = {self.p_value:.2g})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strength:
    """A model's Bradley-Terry strength: log odds, their mean over models zero, with the 95 % interval."""

    value: float
    low: float
    high: float


def bradley_terry(comparisons: Sequence[tuple[str, str, float | int]]) -> dict[str, Strength]:
    """Maximum-likelihood strengths (Bradley and Terry 1952) of several models from pairwise comparisons.

    Args:
        comparisons: (A, B, result): 1 where A wins, 0 where B wins, 0.5 for a tie. Intervals take comparisons as
            independent.

    Raises:
        ValueError: a result outside 0..1, or no finite strengths: some models never lost against the others, or were
            never compared with them.
    """
    names = sorted({name for a, b, _ in comparisons for name in (a, b)})
    index = {name: place for place, name in enumerate(names)}
    wins_MM = np.zeros((len(names), len(names)))
    for a, b, result in comparisons:
        if not 0 <= result <= 1 or a == b:
            raise ValueError(f"a comparison needs two models and a result in 0..1, got {a!r}, {b!r}, {result!r}")
        wins_MM[index[a], index[b]] += result
        wins_MM[index[b], index[a]] += 1 - result
    _check_connected(names, wins_MM)
    values_M = np.zeros(len(names))
    for _ in range(100):
        gradient_M, information_MM = _bradley_terry_derivatives(wins_MM, values_M)
        step_M = np.linalg.pinv(information_MM, hermitian=True) @ gradient_M
        values_M += np.clip(step_M, -1, 1)  # far from the maximum Newton's step is too long
        if np.abs(step_M).max() < 1e-10:
            break
    values_M -= values_M.mean()
    half_M = 1.96 * np.sqrt(np.diag(np.linalg.pinv(information_MM, hermitian=True)))
    return {
        name: Strength(value=float(value), low=float(value - half), high=float(value + half))
        for name, value, half in zip(names, values_M, half_M, strict=True)
    }


def _bradley_terry_derivatives(wins_MM: np.ndarray, values_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gradient of the log-likelihood and the Fisher information."""
    games_MM = wins_MM + wins_MM.T
    chance_MM = 1 / (1 + np.exp(values_M[None] - values_M[:, None]))
    weight_MM = games_MM * chance_MM * (1 - chance_MM)
    return (wins_MM - games_MM * chance_MM).sum(axis=1), np.diag(weight_MM.sum(axis=1)) - weight_MM


def _check_connected(names: Sequence[str], wins_MM: np.ndarray) -> None:
    graph = evaluation_package("scipy.sparse.csgraph")
    count, group = graph.connected_components(wins_MM > 0, directed=True, connection="strong")
    if count > 1:
        apart = ", ".join(name for name, one in zip(names, group, strict=True) if one == group[0])
        raise ValueError(
            f"strengths are not finite: {apart} won or lost every comparison with the others, or had none; "
            "compare more prompts, or leave these models out"
        )


def krippendorff_alpha(ratings_RI: Any, level: str = "ordinal") -> float:
    """Krippendorff's alpha of raters R x items I, NaN where a rater did not see an item; 1 is perfect agreement.

    Raises:
        ValueError: no item was rated twice.
    """
    ratings_RI = np.asarray(ratings_RI, float)
    paired = (~np.isnan(ratings_RI)).sum(axis=0) > 1
    if not paired.any():
        raise ValueError("agreement needs an item that two raters have rated, there is none")
    if len(np.unique(ratings_RI[:, paired][~np.isnan(ratings_RI[:, paired])])) == 1:
        return 1.0  # all gave the same rating: alpha's 0/0
    alpha = evaluation_package("krippendorff").alpha(ratings_RI, level_of_measurement=level)
    return float(alpha)


def intraclass_correlation(ratings_RI: Any) -> tuple[float, float]:
    """ICC(1) of a single rating and of the mean of an item's ratings (Shrout and Fleiss 1979).

    One-way, because raters differ from item to item; with unequal numbers of ratings their effective number is used.

    Args:
        ratings_RI: raters x items, NaN where a rater did not see an item.

    Raises:
        ValueError: fewer than two items, or no item was rated twice.
    """
    items = [column[~np.isnan(column)] for column in np.asarray(ratings_RI, float).T]
    items = [column for column in items if len(column)]
    counts = np.array([len(column) for column in items])
    total, num = counts.sum(), len(items)
    if num < 2 or total <= num:
        raise ValueError(f"needs two items and an item rated twice, got {num} items with {total} ratings")
    means, mean = np.array([column.mean() for column in items]), np.concatenate(items).mean()
    between = float((counts * (means - mean) ** 2).sum() / (num - 1))
    within = float(sum(((column - column.mean()) ** 2).sum() for column in items) / (total - num))
    effective = float((total - (counts**2).sum() / total) / (num - 1))
    if between == within == 0:
        return 1.0, 1.0
    single = (between - within) / (between + (effective - 1) * within)
    return single, (between - within) / between if between else -math.inf


@dataclasses.dataclass(frozen=True, kw_only=True)
class Correlation:
    """How well a judge agrees with people."""

    pearson: float
    pearson_low: float
    pearson_high: float
    spearman: float
    count: int


def correlation(judge: Sequence[float | int] | np.ndarray, human: Sequence[float | int] | np.ndarray) -> Correlation:
    """Pearson's correlation with its 95 % interval (Fisher), and Spearman's.

    Raises:
        ValueError: fewer than four pairs, different lengths, or one side is constant.
    """
    judge_N, human_N = _finite(judge), _finite(human)
    if len(judge_N) != len(human_N) or len(judge_N) < 4:
        raise ValueError(f"needs at least four pairs, got {len(judge_N)} scores and {len(human_N)} ratings")
    for name, values_N in (("the judge", judge_N), ("people", human_N)):
        if np.ptp(values_N) == 0:
            raise ValueError(f"{name} gave {values_N[0]:g} to everything, which correlates with nothing")
    stats = evaluation_package("scipy.stats")
    found = stats.pearsonr(judge_N, human_N)
    interval = found.confidence_interval(0.95)
    return Correlation(
        pearson=float(found.statistic),
        pearson_low=float(interval.low),
        pearson_high=float(interval.high),
        spearman=float(stats.spearmanr(judge_N, human_N).statistic),
        count=len(judge_N),
    )


def vbench2_total(groups: Mapping[str, float | int]) -> float:
    """The total of VBench 2.0: the mean of its five groups; spelling of the names ("Human Fidelity") is not strict.

    Raises:
        ValueError: a group is missing (it does not count as zero), unknown or not finite.
    """
    given = {name.replace("_", " ").replace("-", " ").casefold(): value for name, value in groups.items()}
    missing = [name for name in VBENCH2_GROUPS if name not in given]
    unknown = [name for name in given if name not in VBENCH2_GROUPS]
    if missing or unknown:
        parts = [f"{', '.join(missing)} missing"] * bool(missing) + [f"{', '.join(unknown)} unknown"] * bool(unknown)
        raise ValueError(f"VBench 2.0's total needs {', '.join(VBENCH2_GROUPS)}: {'; '.join(parts)}")
    return float(_finite([given[name] for name in VBENCH2_GROUPS]).mean())


def _finite(values: Sequence[float | int] | np.ndarray) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"needs at least one value, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"values must be finite, {int((~np.isfinite(array)).sum())} of {len(array)} are not")
    return array
