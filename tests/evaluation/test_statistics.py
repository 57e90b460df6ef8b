"""Statistics against formulas, published numbers, and simulated truth."""

import numpy as np
import pytest

from lcv_jax.evaluation import statistics
from lcv_jax.evaluation.statistics import Preference

pytest.importorskip("scipy")

TABLE_8 = """
41.84 63.44 28.60 82.41 60.20 55.30
55.25 63.98 37.32 81.60 62.84 60.20
60.57 64.32 22.09 87.72 57.18 58.38
48.58 65.45 33.05 83.56 64.35 59.00
56.54 65.98 38.13 81.24 71.63 62.70
53.04 64.31 39.84 77.06 64.81 59.81
60.85 69.48 47.04 86.88 69.35 66.72
54.73 70.94 44.79 80.20 59.92 62.11
"""
"""Of the report: creativity, commonsense, controllability, human fidelity, physics, and the total."""


@pytest.mark.parametrize("row", TABLE_8.strip().splitlines())
def test_totals_of_the_reports_table(row):
    *groups, total = map(float, row.split())
    names = ("Creativity", "Commonsense", "Controllability", "Human Fidelity", "Physics")
    found = statistics.vbench2_total(dict(zip(names, groups, strict=True)))
    assert found == pytest.approx(total, abs=0.01)  # its columns are rounded


def test_a_missing_group_is_not_zero():
    with pytest.raises(ValueError, match="physics missing"):
        statistics.vbench2_total({"creativity": 1, "commonsense": 1, "controllability": 1, "human_fidelity": 1})


def test_the_reports_comparison_is_a_tie():
    assert statistics.sign_test(242, 246) == pytest.approx(0.8919, abs=1e-4)
    assert Preference(good=242, same=0, bad=246).verdict() == "tie: no difference to be seen (p = 0.89)"
    assert statistics.sign_test(0, 0) == 1
    assert statistics.sign_test(6, 0) == pytest.approx(2 / 2**6)


def test_preferences():
    found = Preference(good=30, same=10, bad=10)
    assert (found.net, found.win_rate) == (0.4, 0.7)
    assert found.verdict("ours", "theirs").startswith("ours is preferred")
    assert Preference(good=10, same=10, bad=30).verdict("ours", "theirs").startswith("theirs is preferred")


def test_people_count_twice():
    assert statistics.final_score(4.0, 1.0) == 3.0
    found = statistics.final_estimate([4.0, 4.0, 4.0], [1.0, 1.0])
    assert (found.mean, found.low, found.high) == (3.0, 3.0, 3.0)


def test_intervals_cover_the_truth_and_a_model_seldom_differs_from_itself():
    rng = np.random.default_rng(5)
    covered, claimed = [], []
    for seed in range(300):
        one, other = rng.normal(3, 1, (2, 60))
        found = statistics.mean_estimate(one, seed=seed, draws=500)
        covered.append(found.low <= 3 <= found.high)
        named = [{f"p{place}": value for place, value in enumerate(values)} for values in (one, other)]
        difference = statistics.mean_estimate([named[0][key] - named[1][key] for key in named[0]], draws=500)
        claimed.append(statistics.Difference(estimate=difference).is_clear)
    assert 0.92 < np.mean(covered) < 0.98
    assert 0.02 < np.mean(claimed) < 0.08


@pytest.mark.parametrize("count", [6, 8, 16])
def test_few_prompts_claim_no_more_than_many(count):
    """Of two equal models: about 5 % at any number of prompts."""
    rng, claimed = np.random.default_rng(2), []
    for seed in range(400):
        estimate = statistics.mean_estimate(rng.normal(size=count), seed=seed, draws=1000)
        claimed.append(statistics.Difference(estimate=estimate).is_clear)
    assert 0.01 < np.mean(claimed) < 0.085


def test_too_few_prompts_claim_nothing():
    found = statistics.Difference(estimate=statistics.mean_estimate([1.0, 1.1, 1.2, 1.1, 1.3]))
    assert found.verdict("A", "B") == "fewer than 6 prompts, too few to tell"
    assert statistics.final_estimate([4.0], [1.0, 2.0]).low is None
    # 0.1 + 0.2 is not 0.3 to the last bit.
    rounded = statistics.paired_difference(dict.fromkeys("abcdefgh", 0.1 + 0.2), dict.fromkeys("abcdefgh", 0.3))
    assert rounded.verdict("A", "B") == "no difference to be seen"


def test_differences_pair_prompts_that_both_have():
    a = {**dict.fromkeys("cdef", 1.0), "one": 3.0, "two": 5.0, "only a": 0.0}
    b = {**dict.fromkeys("cdef", 0.0), "one": 2.0, "two": 4.0, "only b": 9.0}
    found = statistics.paired_difference(a, b)
    assert (found.estimate.mean, found.estimate.count) == (1.0, 6)
    assert found.verdict("A", "B") == "A is higher"
    assert statistics.paired_difference(b, a).verdict("A", "B") == "B is higher"
    assert statistics.paired_difference(a, a).verdict("A", "B") == "no difference to be seen"
    with pytest.raises(ValueError, match="none of them in both"):
        statistics.paired_difference({"one": 1.0}, {"two": 1.0})


def test_one_prompt_has_no_interval():
    found = statistics.mean_estimate([2.0])
    assert (found.mean, found.low) == (2.0, None)
    assert not statistics.Difference(estimate=found).is_clear
    with pytest.raises(ValueError, match="1 of 2 are not"):
        statistics.mean_estimate([1.0, np.nan])


def test_bradley_terry_finds_the_odds():
    # Two models: the log odds of 30 wins to 10 are log 3, half of it either side of zero.
    two = statistics.bradley_terry([("a", "b", 1.0)] * 30 + [("a", "b", 0.0)] * 10)
    assert two["a"].value - two["b"].value == pytest.approx(np.log(3), abs=1e-8)
    # The difference has variance 1 / (n p (1 - p)); each side half of it.
    assert two["a"].high - two["a"].value == pytest.approx(1.96 * np.sqrt(1 / (40 * 0.75 * 0.25)) / 2, rel=1e-6)
    rng, true = np.random.default_rng(0), {"a": 1.0, "b": 0.0, "c": -1.0}
    drawn = []
    for first, second in [("a", "b"), ("b", "c"), ("c", "a")] * 2000:
        chance = 1 / (1 + np.exp(true[second] - true[first]))
        drawn.append((first, second, float(rng.random() < chance)))
    for name, found in statistics.bradley_terry(drawn).items():
        assert found.low - 0.05 < true[name] < found.high + 0.05


def test_bradley_terry_says_when_there_is_no_answer():
    with pytest.raises(ValueError, match="not finite: a won or lost every comparison"):
        statistics.bradley_terry([("a", "b", 1.0), ("b", "c", 1.0), ("c", "b", 1.0)])


def test_agreement():
    pytest.importorskip("krippendorff")
    # Krippendorff's own example of nominal data (Computing Krippendorff's Alpha-Reliability, 2011, section C).
    missing = np.nan
    ratings = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, missing, missing, missing],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, missing, 3],
        [missing, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, missing],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, missing],
    ]
    assert statistics.krippendorff_alpha(ratings, "nominal") == pytest.approx(0.743, abs=1e-3)
    assert statistics.krippendorff_alpha(ratings) == pytest.approx(0.815, abs=1e-3)
    assert statistics.krippendorff_alpha([[3, 3], [3, 3]]) == 1
    with pytest.raises(ValueError, match="two raters"):
        statistics.krippendorff_alpha([[1, np.nan], [np.nan, 2]])


def test_intraclass_correlation():
    # Shrout and Fleiss (1979), table 2: four judges, six targets; ICC(1,1) = 0.17, ICC(1,4) = 0.44.
    targets = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    single, averaged = statistics.intraclass_correlation(np.array(targets, float).T)
    assert (round(single, 2), round(averaged, 2)) == (0.17, 0.44)
    with pytest.raises(ValueError, match="rated twice"):
        statistics.intraclass_correlation([[1.0, 2.0]])


def test_correlation_of_a_judge_with_people():
    people = np.arange(50.0)
    found = statistics.correlation(people**3, people)
    assert found.spearman == pytest.approx(1)
    assert found.pearson_low < found.pearson < found.pearson_high < 1
    with pytest.raises(ValueError, match="the judge gave 1 to everything"):
        statistics.correlation([1.0] * 5, people[:5])
