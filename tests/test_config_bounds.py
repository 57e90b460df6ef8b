"""Every numeric field of every config declares its bounds, and every config refuses what lies outside."""

import copy
import dataclasses
import importlib
import inspect
import math
import types
import typing
from pathlib import Path
from typing import Annotated, Literal

import pytest

from lcv_jax import objectives
from lcv_jax.bounds import Bounds, field_hints
from lcv_jax.config import Qwen2VisionConfig
from lcv_jax.generate import Sampling
from lcv_jax.objectives.flow_matching import FlowMatching
from lcv_jax.rewards.config import RewardsConfig, RewardSource

MODULES = (
    *("config", "data.config", "data.prompts", "sampling.options", "generation.tasks"),
    *("encode", "generate", "plan", "convert", "export", "toy.make", "toy.films", "toy.start", "toy.score"),
    *(f"training.{name}" for name in ("config", "rollout_config")),
    *("curation.engines", "curation.recipe"),
    *(f"rewards.{name}" for name in ("config", "remote", "process", "local", "collect")),
    *(f"objectives.{path.stem}" for path in Path(objectives.__path__[0]).glob("*.py") if path.stem != "__init__"),
)
NOT_CONFIGS = {"Result", "Listeners", "Report", "Model", "PublishedConfig", "TrainCommand", "_Segmented"}
REWARDS = RewardsConfig(sources=(RewardSource(factory="a:b", weights=(("c", 1.0),)),))
REQUIRED = {
    "VAEConfig": {"latents_mean": (0.0,) * 16, "latents_std": (1.0,) * 16},
    "Qwen2VLConfig": {"vision_config": Qwen2VisionConfig(hidden_size=1536)},
    "AdapterConfig": {"name": "a"},
    "TrainConfig": {"objective": FlowMatching()},
    "DataConfig": {"sizes": ((17, 64, 64),)},
    "PromptsConfig": {"sizes": ((17, 64, 64),)},
    "RewardSource": {"factory": "a:b"},
    "RewardsConfig": {"sources": REWARDS.sources},
    "RolloutConfig": {"rewards": REWARDS},
    "RemoteConfig": {"urls": ("http://a",)},
    "Encode": {"sizes": ("17,64,64",)},
}


def configs():
    for name in MODULES:
        module = importlib.import_module(f"lcv_jax.{name}")
        for kind in vars(module).values():
            own = inspect.isclass(kind) and dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__
            if own and kind.__name__ not in NOT_CONFIGS and kind is not Sampling:
                yield kind


def names():
    return [pytest.param(kind, id=f"{kind.__module__.removeprefix('lcv_jax.')}.{kind.__name__}") for kind in configs()]


def good(hint):
    """A value that an annotation accepts."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        bounds = next((each for each in arguments[1:] if isinstance(each, Bounds)), None)
        if bounds is None:
            return good(arguments[0])
        least = bounds.least if bounds.least is not None else 0 if bounds.above is None else bounds.above + 0.5
        return arguments[0](least)
    if origin is tuple:
        return (good(arguments[0]),) if arguments[-1] is ... else tuple(map(good, arguments))
    if origin in (types.UnionType, typing.Union):
        return None if types.NoneType in arguments else good(arguments[0])
    if origin is Literal:
        return arguments[0]
    if dataclasses.is_dataclass(hint):
        return instance(hint)
    return {str: "a", Path: Path("a"), bool: False, int: 1, float: 1.0}[hint]


def instance(kind):
    hints = field_hints(kind)
    given = REQUIRED.get(kind.__name__, {})
    missing = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return kind(**{name: good(hints[name]) for name in missing if name not in given}, **given)


def numbers(hint, bounds=None):
    """Each number in an annotation: its type, its bounds, and a function that puts a number in its place."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        declared = next((each for each in arguments[1:] if isinstance(each, Bounds)), bounds)
        yield from numbers(arguments[0], declared)
    elif origin in (types.UnionType, typing.Union):
        for one in arguments:
            yield from numbers(one, bounds)
    elif origin is tuple:
        items = arguments[:1] if arguments[-1] is ... else arguments
        for i, item in enumerate(items):
            for number, declared, put in numbers(item):
                around = list(map(good, items))
                yield (
                    number,
                    declared,
                    lambda x, i=i, put=put, around=around: (*around[:i], put(x), *around[i + 1 :]),
                )
    elif hint in (int, float):
        yield hint, bounds, lambda x: x


def outside(number, bounds):
    """Values that no number of this kind may have, and those beside its limits."""
    yield from (math.nan, math.inf, -math.inf, 10**400, -(10**400), "1", True)
    if number is int:
        yield from (2**63, -(2**63), 1.5)
        step = 1
    else:
        yield from (1e39, -1e39)
        step = 1e-6
    for limit in (bounds.least, bounds.most):
        if limit is not None:
            yield number(limit) + (-step if limit is bounds.least else step) * max(1, abs(number(limit)))
    for limit in (bounds.above, bounds.below):
        if limit is not None:
            yield number(limit)


OPTIONS = ("RewardSource.options", "LocalConfig.options")
"""Keywords of a user's own function, of any value."""


@pytest.mark.parametrize("kind", names())
def test_numbers_have_bounds_and_nothing_outside_is_accepted(kind):
    config = instance(kind)
    for name, hint in field_hints(kind).items():
        if f"{kind.__name__}.{name}" in OPTIONS:
            continue
        for number, bounds, put in numbers(hint):
            assert bounds is not None, f"{kind.__name__}.{name} declares no bounds"
            for value in outside(number, bounds):
                changed = copy.copy(config)  # a constructor under pytest would refuse other types itself
                object.__setattr__(changed, name, put(value))
                with pytest.raises(ValueError, match=rf"{name}.* must "):
                    changed.__post_init__()


def test_all_configs_are_found():
    found = {kind.__name__ for kind in configs()}
    assert {"DiTConfig", "TrainConfig", "SamplingOptions", "LongVideo", "Arguments", "RewardsConfig", "GRPO"} <= found
    assert len(list(configs())) > 40
