"""Buckets: every published table and example, and the choice by shape."""

import json
from pathlib import Path

import pytest

from lcv_jax.data.buckets import GRANULARITIES, RESOLUTIONS, buckets, nearest_bucket

PUBLISHED = json.loads((Path(__file__).parents[1] / "golden" / "buckets.json").read_text())
TABLES = [key for key in PUBLISHED if "/" in key]


def test_all_published_tables_are_known():
    assert {f"{r}/{g}" for r in RESOLUTIONS for g in GRANULARITIES} == set(TABLES)


@pytest.mark.parametrize("table", TABLES)
def test_tables(table):
    resolution, granularity = table.split("/")
    ours = buckets(resolution, int(granularity))
    assert {f"{height / width:.2f}": [height, width] for height, width in ours} == PUBLISHED[table]
    assert all(side % int(granularity) == 0 for size in ours for side in size)


@pytest.mark.parametrize("example", PUBLISHED["examples"], ids=str)
def test_examples(example):
    chosen = nearest_bucket(*example["input_height_width"], example["resolution"], example["granularity"])
    assert list(chosen) == example["bucket_height_width"]


@pytest.mark.parametrize("size", buckets("720p", 64))
def test_a_bucket_is_its_own_nearest(size):
    assert nearest_bucket(*size, "720p", 64) == size


def test_sixteen_uses_the_table_of_thirty_two():
    assert buckets("480p", 16) == buckets("480p", 32)


def test_ratios_are_compared_with_two_decimals():
    """0.549 is nearer to 480/832 = 0.577 than to 448/864 = 0.5185, but not to 0.58 than to 0.52."""
    assert nearest_bucket(549, 1000) == (448, 864)


def test_extreme_shapes_take_the_last_bucket():
    assert nearest_bucket(1, 1000) == (320, 1216)
    assert nearest_bucket(1000, 1) == (1280, 320)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((480, 832, "1080p", 32), "resolution must be one of 480p, 720p, got '1080p'"),
        ((480, 832, "480p", 48), "granularity must be one of 16, 32, 64, 128, 256, got 48"),
        ((0, 832), "must be positive, got 0 x 832"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        nearest_bucket(*arguments)
