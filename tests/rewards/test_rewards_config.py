import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tyro

from lcv_jax.rewards.config import RewardsConfig, RewardSource, open_rewards
from lcv_jax.rewards.server import make_server
from tests.rewards.clips import LEVELS, PROMPTS, clips
from tests.rewards.faulty import Brightness, Closing
from tests.rewards.test_remote import serving

ROOT = Path(__file__).parent.parent.parent
FACTORY = "tests.rewards.faulty:Brightness"


def local(*weights, **fields):
    return RewardSource(factory=FACTORY, weights=weights, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "a reward that is local needs factory"),
        ({"where": "process"}, "a reward that is process needs command"),
        ({"where": "http"}, "a reward that is http needs urls"),
        ({"factory": FACTORY, "urls": ("http://a",)}, "urls is of a reward that is http, this one is local"),
        ({"factory": FACTORY, "weights": (("a", math.nan),)}, "weights\\[0\\]\\[1\\] must be finite, got nan"),
    ],
)
def test_sources_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        RewardSource(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sources": ()}, "sources is empty"),
        ({"sources": (local(),)}, "must not sum to zero, got none"),
        ({"sources": (local(("a", 1.0), ("b", -1.0)),)}, "must not sum to zero, got a 1, b -1"),
        ({"sources": (local(("a", 1.0)), local(("a", 2.0)))}, "weights name a more than once"),
        ({"sources": (local(("a", 1.0)),), "timeout": 0.0}, "timeout must be above 0"),
        ({"sources": (local(("a", 1.0)),), "retries": -1}, "retries must lie in 0"),
        ({"sources": (local(("a", 1.0)),), "max_failed": -1}, "max_failed must be at least 0"),
    ],
)
def test_configs_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        RewardsConfig(**fields)


UNKNOWN_KINDS = f"""
from lcv_jax.rewards.config import RewardsConfig, RewardSource
source = RewardSource(factory="{FACTORY}", weights=(("a", 1.0),))
for make in (
    lambda: RewardSource(where="cloud"),
    lambda: RewardSource(factory="{FACTORY}", media="gif"),
    lambda: RewardsConfig(sources=(source,), on_failure="ignore"),
):
    try:
        make()
    except ValueError as error:
        print(error)
"""


def test_unknown_kinds_are_refused():
    # In a process of its own: here the annotations are checked first.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", UNKNOWN_KINDS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "where must be 'local' or 'process' or 'http', got 'cloud'",
        "media must be 'npz' or 'mp4', got 'gif'",
        "on_failure must be 'drop' or 'stop', got 'ignore'",
    ]


def test_weights_of_all_sources():
    cfg = RewardsConfig(sources=(local(("a", 1.0)), local(("b", 0.5), ("c", 0.0))))
    assert cfg.weights == {"a": 1.0, "b": 0.5, "c": 0.0}


def test_a_name_that_nobody_provides():
    cfg = RewardsConfig(sources=(local(("brightnes", 1.0)),))
    with pytest.raises(ValueError, match=f"gives no reward brightnes; there are {FACTORY}: brightness"):
        open_rewards(cfg)


def test_a_name_that_two_provide():
    with pytest.raises(ValueError, match="several are called brightness"):
        open_rewards(RewardsConfig(sources=(local(("brightness", 1.0)), local())))


def test_what_was_opened_is_closed_where_another_fails():
    Closing.closed.clear()
    cfg = RewardsConfig(sources=(RewardSource(factory="tests.rewards.faulty:Closing"), local(("brightnes", 1.0))))
    with pytest.raises(ValueError, match="gives no reward brightnes"):
        open_rewards(cfg)
    assert Closing.closed == ["closed"]


@pytest.mark.parametrize("where", ["local", "process", "http"])
def test_every_way_gives_the_same_scores(where):
    with serving(make_server(Brightness(), "127.0.0.1", 0)) as url:
        fields = {
            "local": {"factory": FACTORY, "options": (("scale", 1.0),)},
            "process": {
                "command": (sys.executable, "-m", "lcv_jax.rewards.worker", FACTORY),
                "environment": (("PYTHONPATH", str(ROOT)),),
            },
            "http": {"urls": (url,)},
        }[where]
        source = RewardSource(where=where, weights=(("brightness", 1.0),), **fields)
        with open_rewards(RewardsConfig(sources=(source,), on_failure="stop")) as scorer:
            assert scorer.names == ("brightness",)
            scores = scorer.submit(clips(), PROMPTS, 8).result(20)
            np.testing.assert_array_equal(scores.values["brightness"], LEVELS)


def test_flags_are_made_of_it():
    default = RewardsConfig(sources=(local(("brightness", 1.0), options=(("scale", 2.0),)),))
    flags = ["--on-failure", "stop", "--timeout", "5", "--sources.0.weights", "brightness", "0.25"]
    cfg = tyro.cli(RewardsConfig, default=default, args=flags)
    assert (cfg.on_failure, cfg.timeout, cfg.weights) == ("stop", 5.0, {"brightness": 0.25})
    assert cfg.sources[0].options == (("scale", 2.0),)
