"""Stages for tests of the library and the engines; workers import them."""

import dataclasses
import os
import signal
import time
from pathlib import Path

from lcv_jax.bounds import Count, check_fields
from lcv_jax.curation.stage import Cost, GroupStage, Stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    factor: Count = 2

    def __post_init__(self):
        check_fields(self)


def measure(row, settings):
    """Acts by what the file says."""
    text = row["path"].read_text()
    log = row["path"].parent.parent / "log"
    with log.open("a") as file:
        file.write(f"{row['path'].name}\n")
    if text == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "sleep":
        time.sleep(60)
    if text == "greed":
        held = b"x" * 500_000_000
        time.sleep(60)
        del held
    return {"number": int(text) * settings.factor}


def cut(row, settings):
    return [{"clip": f"{row['source']}-{i}", "first": i} for i in range(row["number"])]


def rank(columns, settings):
    order = sorted(columns["first"])
    return {"rank": [order.index(first) for first in columns["first"]]}


MEASURE = Stage(
    name="measure", version=1, run=measure, settings=Settings(), of="source",
    reads={"path": Path}, writes={"number": int}, cost=Cost(timeout=20.0),
)  # fmt: skip
CUT = Stage(
    name="cut", version=1, run=cut, settings=Settings(), of="source", makes="clip",
    reads={"number": int}, writes={"clip": str, "first": int},
)  # fmt: skip
RANK = GroupStage(name="rank", version=1, run=rank, settings=Settings(), reads={"first": int}, writes={"rank": int})
