"""A small form of benchmarks/serving.py: mixed requests, some cancelled, and a server that is killed among them."""

import pytest

from benchmarks.serving import run


@pytest.mark.slow
def test_nothing_is_lost_or_made_twice_when_a_server_is_killed(tiny_checkpoint):
    found = run(
        str(tiny_checkpoint), requests=24, clients=8, kills=1, size=32, frames=5, steps=2, condition=1,
    )  # fmt: skip
    assert found["problems"] == []
    assert found["completed"] >= 16
    assert found["completed"] + found["cancelled or interrupted"] == 24
