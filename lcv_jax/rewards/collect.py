"""Asks several rewards at once, and does with failures what a policy says."""

import dataclasses
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.bounds import Whole, check_fields
from lcv_jax.rewards.protocol import Reward, RewardError, Scores, check_names, checked, failed_scores, merged


@dataclasses.dataclass(frozen=True, kw_only=True)
class FailurePolicy:
    """What happens where a clip lacks a score."""

    on_failure: Literal["drop", "stop"] = "drop"
    """Report the clip, so that its group is dropped; or raise an error."""
    max_failed: Whole = 10
    """Batches in a row without one clip that has all scores, beyond which an error is raised all the same."""

    def __post_init__(self) -> None:
        check_fields(self)


def score_all(
    rewards: Sequence[Reward],
    videos_BTHWC: UInt8[np.ndarray, "B T H W 3"],
    prompts: Sequence[str],
    fps: float | int,
    on_failure: Literal["drop", "stop"] = "drop",
) -> Scores:
    """Scores of clips by all rewards, asked at the same time.

    Args:
        rewards: their names must differ.
        videos_BTHWC: clips; nobody may write to them meanwhile.
        prompts: one a clip.
        fps: frames a second.
        on_failure: "drop": a clip without a score is among the failures; "stop": an error.

    Raises:
        ValueError: no rewards, two with the same name, or not as many prompts as clips.
        RewardError: with "stop", a reward failed; it says which, for which clip, and why.
    """
    _all_names(rewards)
    if len(prompts) != len(videos_BTHWC):
        raise ValueError(f"{len(videos_BTHWC)} clips need as many prompts, got {len(prompts)}")
    with ThreadPoolExecutor(len(rewards), thread_name_prefix="reward") as executor:
        asked = [executor.submit(_score_one, reward, videos_BTHWC, prompts, fps) for reward in rewards]
        scores = merged([one.result() for one in asked])
    if scores.failures and on_failure == "stop":
        clip, reason = next(iter(scores.failures.items()))
        raise RewardError(f"{len(scores.failures)} of {len(prompts)} clips lack a score; clip {clip}: {reason}")
    return scores


def _score_one(reward: Reward, videos_BTHWC: Any, prompts: Sequence[str], fps: float | int) -> Scores:
    source = type(reward).__name__
    try:
        return checked(reward.score(videos_BTHWC, prompts, fps), reward.names, len(prompts), ", ".join(reward.names))
    except RewardError as error:
        return failed_scores(reward.names, len(prompts), str(error))
    except Exception as error:
        return failed_scores(reward.names, len(prompts), f"{source}: {type(error).__name__}: {error}")


def _all_names(rewards: Sequence[Reward]) -> tuple[str, ...]:
    if not rewards:
        raise ValueError("no rewards: give at least one")
    names = [name for reward in rewards for name in check_names(reward.names, type(reward).__name__)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"rewards are told apart by their names; several are called {', '.join(twice)}")
    return tuple(names)


class Scorer:
    """Scores batches in the background, one after the other: `with Scorer(rewards) as scorer: scorer.submit(...)`.

    Leaving closes the rewards; what is still waited for fails.

    Raises:
        ValueError: no rewards, or two with the same name.
    """

    def __init__(self, rewards: Sequence[Reward], policy: FailurePolicy = FailurePolicy()):
        self.rewards, self.policy = tuple(rewards), policy
        self.names = _all_names(self.rewards)
        self._failed_in_a_row = 0
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="scorer")
        self._closing = threading.Event()

    def submit(
        self, videos_BTHWC: UInt8[np.ndarray, "B T H W 3"], prompts: Sequence[str], fps: float | int
    ) -> "Future[Scores]":
        """The scores to come; `result()` waits for them and raises what `score_all` raises.

        Raises:
            RuntimeError: it is closed.
        """
        return self._executor.submit(self._score, videos_BTHWC, tuple(prompts), fps)

    def try_out(self, videos_BTHWC: UInt8[np.ndarray, "B T H W 3"], prompts: Sequence[str], fps: float | int) -> Scores:
        """Scores a batch at the start of a run, where any failure is an error, whatever the policy.

        Raises:
            RewardError: a reward failed.
        """
        return score_all(self.rewards, videos_BTHWC, prompts, fps, "stop")

    def close(self) -> None:
        """Closes the rewards and waits for the thread; again does nothing."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._executor.shutdown(wait=False, cancel_futures=True)
        # First, so that a call that is under way ends.
        for reward in self.rewards:
            getattr(reward, "close", lambda: None)()
        self._executor.shutdown(wait=True)

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _score(self, videos_BTHWC: np.ndarray, prompts: Sequence[str], fps: float | int) -> Scores:
        scores = score_all(self.rewards, videos_BTHWC, prompts, fps, self.policy.on_failure)
        self._failed_in_a_row = self._failed_in_a_row + 1 if scores.failed().all() else 0
        if self._failed_in_a_row > self.policy.max_failed:
            raise RewardError(
                f"no clip of {self._failed_in_a_row} batches in a row has all its scores (max_failed is "
                f"{self.policy.max_failed}); the last: {next(iter(scores.failures.values()))}"
            )
        return scores
