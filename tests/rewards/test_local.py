import dataclasses
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from lcv_jax.rewards.local import LocalConfig, LocalReward
from lcv_jax.rewards.protocol import RewardError
from tests.rewards import faulty
from tests.rewards.clips import LEVELS, clips

FACTORY = "tests.rewards.faulty:Brightness"


def test_scores_with_options():
    reward = LocalReward(LocalConfig(factory=FACTORY, options=(("scale", 2.0),)))
    np.testing.assert_array_equal(reward.score(clips(), "abc", 8).values["brightness"], 2 * LEVELS)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [("raise", f"{FACTORY}: ArithmeticError: no clip like this"), ("short", "wanted one score for each of 3")],
)
def test_faults_are_told(prompt, message):
    with pytest.raises(RewardError, match=message):
        LocalReward(LocalConfig(factory=FACTORY)).score(clips(), (prompt, "b", "c"), 8)


def test_late_scores_are_none_and_later_ones_are_right_again(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(faulty, "time", SimpleNamespace(sleep=released.wait))
    reward = LocalReward(LocalConfig(factory=FACTORY, timeout=0.15))
    with pytest.raises(RewardError, match="no scores within 0.15 s"):
        reward.score(clips(), ("hang", "b", "c"), 8)
    with pytest.raises(RewardError, match="an earlier call still runs"):
        reward.score(clips(), "abc", 8)
    released.set()
    reward.cfg = dataclasses.replace(reward.cfg, timeout=60.0)
    np.testing.assert_array_equal(reward.score(clips(), "abc", 8).values["brightness"], LEVELS)


def test_close_ends_a_call_that_waits():
    reward, begun = LocalReward(LocalConfig(factory=FACTORY)), time.monotonic()
    threading.Timer(0.1, reward.close).start()
    with pytest.raises(RewardError, match="closed"):
        reward.score(clips(), ("hang", "b", "c"), 8)
    assert time.monotonic() - begun < 30  # it hangs for 60 s
    unused = LocalReward(LocalConfig(factory=FACTORY))
    unused.close()
    with pytest.raises(RewardError, match="closed"):
        unused.score(clips(), "abc", 8)
