import numpy as np
import pytest

from lcv_jax.rewards.factory import make_reward
from lcv_jax.rewards.protocol import Reward, RewardError, Scores, checked, merged
from tests.rewards.faulty import Brightness


def test_reward_is_a_protocol():
    assert isinstance(Brightness(), Reward)
    assert not isinstance(object(), Reward)


def test_checked_keeps_numbers_in_float32():
    scores = checked({"b": [1, 2], "a": np.array([0.1, 0.2])}, ("a", "b"), 2)
    assert scores.names == ("a", "b")
    assert scores.values["b"].dtype == np.float32
    np.testing.assert_array_equal(scores.values["a"], np.float32([0.1, 0.2]))
    assert scores.failures == {}


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf, 1e300])
def test_checked_never_makes_a_number_of_what_is_not_finite(fault):
    scores = checked({"a": np.array([0.5, fault]), "b": np.array([1.0, 2.0])}, ("a", "b"), 2, "hps")
    np.testing.assert_array_equal(scores.values["a"], [0.5, np.nan])
    assert list(scores.failures) == [1]
    assert scores.failures[1].startswith("hps, a: ")
    np.testing.assert_array_equal(scores.failed(), [False, True])


def test_a_reported_failure_takes_the_number_that_came_with_it():
    scores = checked(Scores(values={"a": np.float32([1, 2])}, failures={0: "too dark"}), ("a",), 2, "hps")
    np.testing.assert_array_equal(scores.values["a"], [np.nan, 2])
    assert scores.failures == {0: "hps: too dark"}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"a": [1.0]}, r"hps, a: wanted one score for each of 2 clips, got shape \(1,\)"),
        ({"a": 1.0}, r"got shape \(\)"),
        ({"a": np.ones((2, 1))}, r"got shape \(2, 1\)"),
        ({"a": ["1", "2"]}, "scores must be floats, got <U1"),
        ({"a": [True, False]}, "scores must be floats, got bool"),
        ({"a": [None, 1.0]}, "scores must be floats, got object"),
        ({}, "hps returned scores of nothing, wanted a"),
        ({"b": [1.0, 2.0]}, "hps returned scores of b, wanted a"),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0]}, "hps returned scores of a, b, wanted a"),
        ([1.0, 2.0], "hps returned list, wanted a mapping"),
        (None, "hps returned NoneType"),
        (Scores(values={"a": np.float32([1, 2])}, failures={2: "late"}), r"failures of clips \[2\], there are 0..1"),
    ],
)
def test_checked_refuses(returned, message):
    with pytest.raises(RewardError, match=message):
        checked(returned, ("a",), 2, "hps")


def test_groups_with_a_failed_clip_are_not_kept():
    scores = Scores(values={"a": np.float32([1, 2, np.nan, 4, 5, 6]), "b": np.float32([1, 2, 3, 4, 5, 6])})
    np.testing.assert_array_equal(scores.kept_groups(2), [True, False, True])
    np.testing.assert_array_equal(scores.kept_groups(3), [False, True])
    with pytest.raises(ValueError, match="6 clips are no whole groups of 4"):
        scores.kept_groups(4)


def test_merged_joins_names_and_reasons():
    one = Scores(values={"a": np.float32([np.nan, 1])}, failures={0: "late"})
    two = Scores(values={"b": np.float32([np.nan, np.nan])}, failures={0: "dead", 1: "dead"})
    scores = merged([one, two])
    assert scores.names == ("a", "b")
    assert scores.failures == {0: "late; dead", 1: "dead"}


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("tests.rewards.faulty", "a reward is named module:factory"),
        ("tests.rewards.faulty:Brightnes", "no Brightnes there; it has Brightness"),
        ("tests.rewards.clips:PROMPTS", "is tuple; a factory is called"),
        ("builtins:dict", "gave dict; a reward has `names` and `score`"),
    ],
)
def test_factories_that_are_none(factory, message):
    with pytest.raises(ValueError, match=message):
        make_reward(factory)


def test_a_factory_takes_options():
    assert make_reward("tests.rewards.faulty:Brightness", {"scale": 2.0}).scale == 2.0
