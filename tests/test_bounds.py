import dataclasses
import math
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest

from lcv_jax.bounds import Bounds, Count, Finite, Positive, Seed, Share, check_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    count: Count = 1
    rate: Positive = 1.0
    share: Share | None = None
    decay: Annotated[float, Bounds(least=0, below=1)] = 0.5
    mean: Finite = 0.0
    sizes: tuple[Annotated[int, Bounds(least=1, most=64)], ...] = ()
    named: tuple[tuple[str, Finite], ...] = ()
    seeds: Seed | tuple[Seed, ...] = 0
    mode: Literal["a", "b"] = "a"
    flag: bool = False
    text: str = ""
    folder: Path = Path()

    def __post_init__(self) -> None:
        check_fields(self)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"count": 2**31}, "count must be at least 1 and at most 2147483647, got 2147483648"),
        ({"count": 10**5000}, "count must be at least 1 and at most 2147483647, got a number of thousands of digits"),
        ({"rate": 0}, "rate must be above 0, got 0"),
        ({"rate": math.nan}, "rate must be above 0 and finite, got nan"),
        ({"rate": math.inf}, "rate must be above 0 and finite, got inf"),
        ({"rate": 1e39}, r"rate must be above 0 and finite, got 1e\+39"),
        ({"rate": 10**400}, "rate must be above 0 and finite"),
        ({"share": 1.5}, "share must lie in 0..1, got 1.5"),
        ({"share": math.nan}, "share must lie in 0..1, got nan"),
        ({"decay": 1.0}, "decay must be at least 0 and below 1, got 1.0"),
        ({"mean": -math.inf}, "mean must be finite, got -inf"),
        ({"sizes": (1, 65)}, r"sizes\[1\] must lie in 1..64, got 65"),
        ({"named": (("a", math.nan),)}, r"named\[0\]\[1\] must be finite, got nan"),
        ({"seeds": 2**70}, "seeds must lie in 0..4294967295, got 1180591620717411303424"),
        ({"seeds": (1, -1)}, r"seeds\[1\] must lie in 0..4294967295, got -1"),
        ({"count": 0, "rate": -1}, "count must be at least 1, got 0; rate must be above 0, got -1"),
    ],
)
def test_a_value_out_of_range_is_named_with_the_range(values, message):
    with pytest.raises(ValueError, match=message):
        Config(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": True}, "count must be a whole number, at least 1, got True"),
        ({"count": 2.0}, "count must be a whole number, at least 1, got 2.0"),
        ({"count": "2"}, "count must be a whole number, at least 1, got '2'"),
        ({"count": None}, "count must be a whole number, at least 1, got None"),
        ({"rate": "1"}, "rate must be a number, above 0, got '1'"),
        ({"rate": False}, "rate must be a number, above 0, got False"),
        ({"sizes": [1]}, r"sizes must be a tuple, got \[1\]"),
        ({"named": (("a",),)}, r"named\[0\] must have 2 values, got \('a',\)"),
        ({"mode": "c"}, "mode must be 'a' or 'b', got 'c'"),
        ({"flag": 1}, "flag must be true or false, got 1"),
        ({"text": 1}, "text must be a text, got 1"),
        ({"folder": "x"}, "folder must be a path, got 'x'"),
    ],
)
def test_a_value_of_another_type_is_named_with_the_type(values, message):
    with pytest.raises(ValueError, match=message):
        Config(**values)


def test_what_lies_within_is_accepted():
    config = Config(count=2**31 - 1, rate=np.float32(1e-30), share=0, decay=0, sizes=(1, 64), seeds=(0, 2**32 - 1))
    assert config.share == 0
    assert Config(count=np.int64(3), rate=2, named=(("a", -1.0),)).count == 3
