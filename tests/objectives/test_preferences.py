"""Losses of judges against the published ones and their formulas, and the accuracies that validation reports."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.objectives.preferences import (
    FIRST,
    MISSING,
    SAME,
    SECOND,
    JudgeNetworks,
    PairPreference,
    RatingRegression,
    accuracy_with_ties,
)


def check(loss, arguments, wanted):
    """A mean loss and its gradients with respect to all arguments."""
    value, gradients = jax.value_and_grad(lambda *given: jnp.mean(loss(*given)), range(len(arguments)))(*arguments)
    np.testing.assert_allclose(value, wanted[0][0], rtol=2e-6)
    for got, want in zip(gradients, wanted[1:], strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-7)


def of(io, name):
    return [io[f"loss_only.{name}{part}"] for part in ("", ".grad_A", ".grad_B")]


@pytest.mark.parametrize(("model", "name"), [("bradley_terry", "bt"), ("bradley_terry_with_ties", "btt")])
def test_losses_are_those_of_videoreward(golden, model, name):
    _, io = golden("rewards/videoreward/train")
    label_BD = io["loss_only.chosen_label"]
    assert {FIRST, SECOND, SAME, MISSING} == set(label_BD.ravel().tolist())
    objective = PairPreference(model=model)
    check(lambda a, b: objective.loss(a, b, label_BD), [io["loss_only.A"], io["loss_only.B"]], of(io, name))


def test_losses_are_those_of_hpsv3(golden):
    _, io = golden("rewards/hpsv3/train")
    first_B1 = np.full((5, 1), FIRST)
    noise_BN = io["loss_only.noise"].astype(np.float32)
    objective = PairPreference(model="uncertainty")
    given = [io["loss_only.A2"], io["loss_only.B2"]]
    check(lambda a, b: objective.loss(a, b, first_B1, noise_BN), given, of(io, "uncertainty"))
    for model, name in (("bradley_terry", "bt"), ("bradley_terry_with_ties", "btt")):
        objective = PairPreference(model=model)
        check(
            lambda a, b, objective=objective: objective.loss(a, b, first_B1),
            [io["loss_only.A"], io["loss_only.B"]],
            of(io, name),
        )


def test_ratings_are_those_of_videoreward(golden):
    """The published regression takes both videos of a pair; a rating of 0 is one that lacks there."""
    _, io = golden("rewards/videoreward/train")
    objective = RatingRegression()

    def loss(a, b):
        ratings = [jnp.where(io[f"loss_only.{x}_scores"] == 0, jnp.nan, io[f"loss_only.{x}_scores"]) for x in "AB"]
        return (objective.loss(a, ratings[0]) + objective.loss(b, ratings[1])) / 2

    check(loss, [io["loss_only.A"], io["loss_only.B"]], of(io, "reg"))


def test_probabilities_add_up_to_one():
    """exp(-loss) of a win, a loss and a tie, whatever the scores; and what a tie and k = 1 are worth."""
    difference = np.linspace(-4, 4, 9, dtype=np.float32)[:, None]
    for k in (1.5, 5.0):
        objective = PairPreference(tie_factor=k)
        labels = [np.full((9, 1), label) for label in (FIRST, SECOND, SAME)]
        losses = [objective.loss(difference, np.zeros_like(difference), label) for label in labels]
        np.testing.assert_allclose(sum(np.exp(-np.asarray(loss)) for loss in losses), 1, rtol=1e-5)
        assert math.exp(-losses[2][4, 0]) == pytest.approx((k - 1) / (k + 1), rel=1e-5)
        np.testing.assert_allclose(losses[0], np.log(np.exp(difference) + k) - difference, rtol=1e-5)


@pytest.mark.parametrize("model", ["bradley_terry", "bradley_terry_with_ties", "uncertainty"])
def test_swapping_videos_swaps_labels_and_missing_ones_count_nothing(model):
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 6, 2)).astype(np.float32)
    label = np.array([[1], [-1], [0], [22], [1], [-1]])
    swapped = np.where(np.abs(label) == 1, -label, label)
    noise = rng.standard_normal((6, 50)).astype(np.float32)
    loss = PairPreference(model=model).loss
    one, other = loss(first, second, label, noise), loss(second, first, swapped, noise)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    assert one[3] == 0
    assert (one[2] == 0) == (model != "bradley_terry_with_ties")
    gradient = jax.grad(lambda a: jnp.sum(loss(a, second, label, noise)))(first)
    assert np.all(np.asarray(gradient[3]) == 0)
    assert np.any(np.asarray(gradient[0]) != 0)


def test_an_objective_is_a_mean_over_all_samples_and_dimensions():
    scores = np.array([[[2.0, 0.5, -1.0], [1.0, 1.5, 0.0]], [[0.0, 0.0, 3.0], [0.0, 1.0, 0.0]]], np.float32)
    batch = {"label_BD": jnp.array([[1, 22, -1], [0, -1, -1]])}
    found = PairPreference()(JudgeNetworks(scores=lambda _: jnp.array(scores)), batch, jax.random.key(0))
    softplus = lambda x: math.log1p(math.exp(x))  # noqa: E731
    log_k = math.log(5)
    wins = [softplus(log_k - d) for d in (1.0, 1.0, 1.0, -3.0)]
    tie = 2 * softplus(log_k) - math.log(24)
    assert float(found.loss) == pytest.approx((sum(wins) + tie) / 6, rel=1e-5)
    assert float(found.metrics["accuracy"]) == pytest.approx(3 / 4)
    rated = {"rating_BD": jnp.array([[4.0, jnp.nan, 2.0], [jnp.nan, 3.0, 5.0]])}
    found = RatingRegression()(JudgeNetworks(scores=lambda _: jnp.array(scores[:, :1])), rated, jax.random.key(0))
    assert float(found.loss) == pytest.approx((1 + 0 + 0 + 1) / 6)


def test_accuracy_with_ties_is_that_of_the_best_threshold():
    rng = np.random.default_rng(3)
    for _ in range(20):
        difference = np.round(rng.standard_normal(8), 1)
        label = rng.choice([1, -1, 0, 22], 8)
        known = label != 22
        called = [
            np.where(np.abs(difference) <= threshold, 0, np.sign(difference)) for threshold in [-1, *np.abs(difference)]
        ]
        best = max(np.mean((one == label)[known]) for one in called) if known.any() else 0
        assert accuracy_with_ties(difference, label) == pytest.approx(best)


def test_summaries_name_their_dimensions():
    samples = {"difference_BD": np.array([[1.0, 2.0], [-1.0, 0.1], [3.0, 1.0]])}
    samples["label_BD"] = np.array([[1, 22], [1, 0], [22, -1]])
    assert PairPreference().summary(samples, ("VQ", "MQ")) == {
        "VQ_accuracy": 0.5,
        "MQ_accuracy": 0.0,
        "MQ_accuracy_with_ties": 0.5,
    }
    rated = {"score_BD": np.array([[1.0], [2.0], [0.0]]), "rating_BD": np.array([[4.0], [5.0], [np.nan]])}
    assert RatingRegression().summary(rated, ("TA",)) == {"TA_rmse": 0.0, "TA_correlation": pytest.approx(1.0)}


def test_uncertainty_needs_a_standard_deviation():
    for outputs, dimensions in itertools.product((("VQ", "MQ", "TA"), ("mu",)), (("MQ",), ("VQ", "TA"))):
        with pytest.raises(ValueError, match="uncertainty needs a judge with a mean and a standard deviation"):
            PairPreference(model="uncertainty").check(outputs, dimensions)
    PairPreference(model="uncertainty").check(("mu", "log_sigma"), ("preference",))
