import dataclasses
import errno
import os
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest

from lcv_jax.bounds import Count, check_fields
from lcv_jax.curation.stage import INCIDENTAL, Stage, attempt, digest
from lcv_jax.own_files import DiskFullError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    side: Count = 8
    weights: Path = Path("a")
    url: Annotated[str, INCIDENTAL] = "http://a"

    def __post_init__(self):
        check_fields(self)


def stage(run, **changes):
    described = {"name": "sharpness", "version": 1, "settings": Settings(), "reads": {"path": Path}}
    return Stage(run=run, **{**described, "writes": {"sharpness": float}, **changes})


def result(run, **changes):
    return attempt(stage(run, **changes), {"clip": "a", "path": Path("a.mp4")})


def test_a_row_gives_the_columns_that_are_written():
    outcome = result(lambda row, settings: {"sharpness": np.float32(settings.side)})
    assert (outcome.key, outcome.rows, outcome.fault) == ("a", [{"sharpness": 8.0}], None)
    assert type(outcome.rows[0]["sharpness"]) is float


def test_a_stage_can_make_several_rows_or_none():
    cut = {"of": "source", "makes": "clip", "writes": {"clip": str, "first": int}}
    row = {"source": "s"}
    made = attempt(stage(lambda row, _: [{"clip": f"s-{i}", "first": i} for i in range(2)], **cut), row)
    assert [each["clip"] for each in made.rows] == ["s-0", "s-1"]
    none = attempt(stage(lambda *_: [], **cut), row)
    assert (none.key, none.rows, none.fault) == ("s", [], None)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"sharpness": float("nan")}, "sharpness is nan: no number"),
        ({"sharpness": "soft"}, "sharpness must be a float, got 'soft'"),
        ({"sharpness": True}, "must be a float, got True"),
        ({"blur": 1.0}, "these differ: blur, sharpness"),
        ([{"sharpness": 1.0}], "must return a row"),
    ],
)
def test_what_is_not_declared_is_a_fault_of_the_row(value, told):
    assert told in result(lambda *_: value).fault


def raising(error):
    def run(row, settings):
        raise error

    return run


def test_exceptions_are_faults_of_the_row_but_for_a_full_disk_and_a_missing_package(tmp_path):
    assert result(raising(OSError("a.mp4: breaks off"))).fault == "OSError: a.mp4: breaks off"
    assert result(raising(ValueError("a.mp4: holds no video"))).fault == "a.mp4: holds no video"
    with pytest.raises(ImportError, match="no such package"):
        result(raising(ImportError("no such package")))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.mp4")
    with pytest.raises(DiskFullError, match="free"):
        attempt(stage(raising(full)), {"clip": "a", "folder": tmp_path})


def test_version_and_settings_make_another_stage_and_places_do_not():
    def of(version=1, **settings):
        return digest(stage(print, version=version, settings=Settings(**settings)))

    assert of() != of(version=2)
    assert of() != of(side=9)
    assert of() == of(weights=Path("b"), url="http://b")
