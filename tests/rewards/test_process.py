import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lcv_jax.rewards.process import ProcessConfig, ProcessReward
from lcv_jax.rewards.protocol import RewardError
from lcv_jax.rewards.wire import pack_request
from tests.rewards.clips import LEVELS, PROMPTS, clips

ROOT = Path(__file__).parent.parent.parent
COMMAND = (sys.executable, "-m", "lcv_jax.rewards.worker", "tests.rewards.faulty:Brightness")


def config(command=COMMAND, **fields):
    return ProcessConfig(command=command, environment=(("PYTHONPATH", str(ROOT)),), **fields)


@pytest.fixture(scope="module")
def shared():
    reward = ProcessReward(config())
    yield reward
    reward.close()


def test_scores_come_from_another_process(shared):
    assert shared.names == ("brightness",)
    assert shared._worker._process.pid != os.getpid()
    np.testing.assert_array_equal(shared.score(clips(), PROMPTS, 8).values["brightness"], LEVELS)


def test_options_of_the_command():
    reward = ProcessReward(config((*COMMAND, "--options", '{"scale": 2.0}')))
    np.testing.assert_array_equal(reward.score(clips(), PROMPTS, 8).values["brightness"], 2 * LEVELS)
    reward.close()


def test_what_a_reward_prints_does_not_break_the_messages(shared):
    np.testing.assert_array_equal(shared.score(clips(), ("print", "b", "c"), 8).values["brightness"], LEVELS)


def test_nan_is_a_failure_with_its_reason(shared):
    scores = shared.score(clips(), ("nan", "b", "c"), 8)
    np.testing.assert_array_equal(scores.values["brightness"], [10, np.nan, 30])
    assert list(scores.failures) == [1]
    assert "brightness: nan" in scores.failures[1]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("raise", "faulty:Brightness: ArithmeticError: no clip like this"),
        ("short", r"wanted one score for each of 3 clips, got shape \(2,\)"),
        ("name", "returned scores of darkness, wanted brightness"),
    ],
)
def test_faults_are_told_and_the_worker_lives_on(shared, prompt, message):
    pid = shared._worker._process.pid
    with pytest.raises(RewardError, match=message):
        shared.score(clips(), (prompt, "b", "c"), 8)
    assert shared._worker._process.pid == pid
    np.testing.assert_array_equal(shared.score(clips(), PROMPTS, 8).values["brightness"], LEVELS)


def test_a_worker_that_died_is_started_again(tmp_path):
    reward = ProcessReward(config(retries=1))
    scores = reward.score(clips(), (f"die {tmp_path / 'once'}", "b", "c"), 8)
    np.testing.assert_array_equal(scores.values["brightness"], LEVELS)
    reward.close()


def test_a_worker_that_keeps_dying_is_given_up_with_its_last_words():
    reward = ProcessReward(config(retries=1))
    with pytest.raises(RewardError, match=r"died with status 3; its last lines: .*the weights melted.*attempt 2 of 2"):
        reward.score(clips(), ("die", "b", "c"), 8)
    reward.close()


def test_a_worker_killed_midway():
    reward = ProcessReward(config(retries=0))
    pid = reward._worker._process.pid
    threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
    with pytest.raises(RewardError, match="died with status -9"):
        reward.score(clips(), ("hang", "b", "c"), 8)
    np.testing.assert_array_equal(reward.score(clips(), PROMPTS, 8).values["brightness"], LEVELS)
    assert reward._worker._process.pid != pid
    reward.close()


def test_a_worker_that_hangs_is_killed():
    reward = ProcessReward(config(retries=0, timeout=0.5))
    process, begun = reward._worker._process, time.monotonic()
    with pytest.raises(RewardError, match="no scores within 0.5 s"):
        reward.score(clips(), ("hang", "b", "c"), 8)
    assert time.monotonic() - begun < 20
    assert process.poll() == -signal.SIGKILL
    reward.close()


WITHOUT_IDS = """
import sys, time
from lcv_jax.rewards.wire import pack_message, read_message
def say(header):
    sys.stdout.buffer.write(b"".join(pack_message(header)))
    sys.stdout.buffer.flush()
say({"version": 1, "names": ["brightness"]})
while True:
    count = len(read_message(sys.stdin.buffer)[0]["prompts"])
    for _ in range(int(sys.argv[1])):
        say({"version": int(sys.argv[2]), "scores": {"brightness": [5.0] * count}})
"""


@pytest.mark.parametrize(
    ("replies", "version", "message"),
    [("1", "1", None), ("2", "1", "sent something besides its replies"), ("1", "2", "a reply of version 2")],
)
def test_a_worker_whose_replies_hold_no_ids(replies, version, message):
    reward = ProcessReward(config((sys.executable, "-c", WITHOUT_IDS, replies, version), retries=0))
    try:
        if message is None:
            for _ in range(2):
                assert reward.score(clips(), PROMPTS, 8).values["brightness"].tolist() == [5.0, 5.0, 5.0]
        else:
            with pytest.raises(RewardError, match=message):
                reward.score(clips(), PROMPTS, 8)
    finally:
        reward.close()


def test_an_answer_to_another_request_is_none(shared, monkeypatch):
    ids = iter(["one", "two"])
    monkeypatch.setattr("lcv_jax.rewards.process.request_id", lambda: next(ids))
    shared.score(clips(), PROMPTS, 8)
    monkeypatch.setattr("lcv_jax.rewards.process.pack_request", lambda *given: pack_request(*given[:-1], "one"))
    with pytest.raises(RewardError, match="a reply to request 'one', expected one to 'two'"):
        shared.score(clips(), PROMPTS, 8)
    monkeypatch.undo()
    np.testing.assert_array_equal(shared.score(clips(), PROMPTS, 8).values["brightness"], LEVELS)


def test_close_ends_a_call_that_waits():
    reward = ProcessReward(config())
    threading.Timer(0.3, reward.close).start()
    with pytest.raises(RewardError):
        reward.score(clips(), ("hang", "b", "c"), 8)
    with pytest.raises(RewardError, match="closed"):
        reward.score(clips(), PROMPTS, 8)


@pytest.mark.parametrize(
    ("command", "fields", "message"),
    [
        (("/no/such/python",), {}, "cannot be started: .*No such file"),
        ((sys.executable, "-c", "raise SystemExit('no gpu')"), {}, "died with status 1; its last lines: no gpu"),
        ((sys.executable, "-c", "print('hello' * 9)"), {}, "a message begins with|died with status 0"),
        ((*COMMAND[:-1], "tests.rewards.faulty:broken"), {}, "faulty:broken .*: RuntimeError: no weights here"),
        ((*COMMAND[:-1], "tests.rewards.nowhere:at_all"), {}, "No module named"),
        ((sys.executable, "-c", "import time; time.sleep(60)"), {"start_timeout": 0.3}, "not ready within 0.3 s"),
    ],
)
def test_what_does_not_start(command, fields, message):
    with pytest.raises(RewardError, match=message):
        ProcessReward(config(command, **fields))


def test_a_worker_has_this_environment_with_changes(monkeypatch):
    monkeypatch.setenv("KEPT", "kept")
    monkeypatch.setenv("CHANGED", "before")
    code = "import os; raise SystemExit(os.environ['KEPT'] + os.environ['CHANGED'])"
    with pytest.raises(RewardError, match="its last lines: keptafter"):
        ProcessReward(ProcessConfig(command=(sys.executable, "-c", code), environment=(("CHANGED", "after"),)))


def test_a_worker_ends_with_its_trainer():
    reward = ProcessReward(config())
    process = reward._worker._process
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    reward.close()


def test_a_worker_needs_no_jax():
    lacking = "import sys; sys.modules.update(dict.fromkeys(('jax', 'jaxtyping', 'flax', 'tyro')))"
    command = [sys.executable, "-c", f"{lacking}; import lcv_jax.rewards.worker"]
    assert subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, check=False).returncode == 0
