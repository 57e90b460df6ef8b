import threading

import numpy as np
import pytest

from lcv_jax.rewards.collect import FailurePolicy, Scorer, score_all
from lcv_jax.rewards.protocol import RewardError
from tests.rewards.clips import LEVELS, PROMPTS, clips
from tests.rewards.faulty import Brightness


class Named:
    """Gives what it is told to, or raises it."""

    def __init__(self, name, given):
        self.names, self.given, self.closed = (name,), given, 0

    def score(self, videos_BTHWC, prompts, fps):
        if isinstance(self.given, Exception):
            raise self.given
        return {self.names[0]: np.asarray(self.given, np.float32)}

    def close(self):
        self.closed += 1


def test_rewards_are_merged():
    scores = score_all([Brightness(), Named("b", [1, 2, 3])], clips(), PROMPTS, 8)
    assert scores.names == ("brightness", "b")
    np.testing.assert_array_equal(scores.values["brightness"], LEVELS)
    np.testing.assert_array_equal(scores.values["b"], [1, 2, 3])
    assert not scores.failed().any()


def test_rewards_are_asked_at_the_same_time():
    both = threading.Barrier(2, timeout=60)

    class Meeting(Named):
        def score(self, *arguments):
            both.wait()
            return super().score(*arguments)

    score_all([Meeting("a", [1, 2, 3]), Meeting("b", [1, 2, 3])], clips(), PROMPTS, 8, "stop")


def test_drop_reports_each_clip_and_keeps_the_others():
    scores = score_all([Named("a", [1, np.nan, 3]), Named("b", [1, 2, np.inf])], clips(), PROMPTS, 8)
    np.testing.assert_array_equal(scores.failed(), [False, True, True])
    assert scores.failures == {1: "a, a: nan", 2: "b, b: inf"}
    np.testing.assert_array_equal(scores.kept_groups(1), [True, False, False])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (RewardError("late"), "late"),
        (KeyError("weights"), "Named: KeyError: 'weights'"),
        ([1, 2], r"a, a: wanted one score for each of 3 clips, got shape \(2,\)"),
    ],
)
def test_a_reward_that_fails_fails_all_clips(given, reason):
    rewards = [Named("a", given), Named("b", [1, 2, 3])]
    scores = score_all(rewards, clips(), PROMPTS, 8)
    assert np.isnan(scores.values["a"]).all()
    np.testing.assert_array_equal(scores.values["b"], [1, 2, 3])
    assert list(scores.failures) == [0, 1, 2]
    with pytest.raises(RewardError, match=f"3 of 3 clips lack a score; clip 0: {reason}"):
        score_all(rewards, clips(), PROMPTS, 8, "stop")


def test_stop_names_reward_clip_and_reason():
    with pytest.raises(RewardError, match="1 of 3 clips lack a score; clip 1: a, a: nan"):
        score_all([Named("a", [1, np.nan, 3])], clips(), PROMPTS, 8, "stop")


@pytest.mark.parametrize("make", [Scorer, lambda rewards: score_all(rewards, clips(), PROMPTS, 8)])
def test_rewards_that_do_not_go_together(make):
    with pytest.raises(ValueError, match="several are called a"):
        make([Named("a", [1, 2, 3]), Named("a", [1, 2, 3])])
    with pytest.raises(ValueError, match="no rewards"):
        make([])


def test_clips_need_as_many_prompts():
    with pytest.raises(ValueError, match="3 clips need as many prompts, got 2"):
        score_all([Brightness()], clips(), ["a", "b"], 8)


def test_scorer_works_in_the_background_and_in_order():
    go, order = threading.Event(), []

    class Waiting(Named):
        def score(self, videos_BTHWC, prompts, fps):
            assert go.wait(10)
            order.append(prompts[0])
            return super().score(videos_BTHWC, prompts, fps)

    reward = Waiting("a", [1, 2, 3])
    with Scorer([reward]) as scorer:
        futures = [scorer.submit(clips(), (prompt, "", ""), 8) for prompt in "xyz"]
        assert not any(future.done() for future in futures)
        go.set()
        np.testing.assert_array_equal(futures[-1].result(10).values["a"], [1, 2, 3])
    assert order == ["x", "y", "z"]
    assert reward.closed == 1


def test_scorer_stops_by_its_policy():
    with Scorer([Named("a", [1, np.nan, 3])], FailurePolicy(on_failure="stop")) as scorer:
        future = scorer.submit(clips(), PROMPTS, 8)
        with pytest.raises(RewardError, match="clip 1"):
            future.result(10)


def test_dropping_everything_ends_after_max_failed_batches():
    reward = Named("a", RewardError("dead"))
    with Scorer([reward], FailurePolicy(max_failed=2)) as scorer:

        def batch():
            return scorer.submit(clips(), PROMPTS, 8).result(10)

        batch(), batch()
        reward.given = [1, np.nan, 3]  # one batch with a whole clip begins the count again
        batch()
        reward.given = RewardError("dead")
        batch(), batch()
        with pytest.raises(RewardError, match="no clip of 3 batches in a row .*the last: dead"):
            batch()


def test_trying_out_takes_no_failure():
    with Scorer([Named("a", [1, np.nan, 3])]) as scorer, pytest.raises(RewardError, match="clip 1"):
        scorer.try_out(clips(), PROMPTS, 8)


def test_closing_ends_what_waits():
    reached = threading.Event()

    class Stuck(Named):
        def __init__(self):
            super().__init__("a", [1, 2, 3])
            self.ended = threading.Event()

        def score(self, *_):
            reached.set()
            assert self.ended.wait(10)
            raise RewardError("closed")

        def close(self):
            self.ended.set()

    scorer = Scorer([Stuck()], FailurePolicy(on_failure="stop"))
    running, queued = (scorer.submit(clips(), PROMPTS, 8) for _ in range(2))
    assert reached.wait(10)
    scorer.close()
    scorer.close()
    assert queued.cancelled()
    with pytest.raises(RewardError, match="closed"):
        running.result(0)
    with pytest.raises(RuntimeError):
        scorer.submit(clips(), PROMPTS, 8)
