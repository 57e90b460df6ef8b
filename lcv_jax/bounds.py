"""Bounds of config fields: declared in the annotation, checked for all fields of a dataclass at once.

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config:
        rank: Annotated[int, Bounds(least=1)] = 128
        share: Share = 0.5

        def __post_init__(self) -> None:
            check_fields(self)

Every numeric field of a config declares its bounds; NaN and infinities are never within them. Rules that concern
several fields stay in `__post_init__`, after the check.
"""

import dataclasses
import functools
import numbers
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

_INT32_MAX, _FLOAT32_MAX = 2**31 - 1, 3.4028234e38
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """Range of a number. Whatever is declared, integers fit 32 bits unless `most` is larger, floats are finite."""

    least: int | float | None = None
    """Smallest value, included."""
    above: int | float | None = None
    """Lower limit, excluded."""
    most: int | float | None = None
    """Largest value, included."""
    below: int | float | None = None
    """Upper limit, excluded."""

    def holds(self, value: Any, limit: int | float = _FLOAT32_MAX) -> bool:
        """Whether a number lies within, and its size where nothing else is declared; NaN never does."""
        return bool(
            (-limit if self.least is None else self.least) <= value <= (limit if self.most is None else self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"in {self.least}..{self.most}"
        named = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{name} {limit}" for name, limit in named.items() if limit is not None) or "finite"


Count = Annotated[int, Bounds(least=1)]
Whole = Annotated[int, Bounds(least=0)]
Positive = Annotated[float, Bounds(above=0)]
NonNegative = Annotated[float, Bounds(least=0)]
Finite = Annotated[float, Bounds()]
Share = Annotated[float, Bounds(least=0, most=1)]
Seed = Annotated[int, Bounds(least=0, most=2**32 - 1)]
"""Random keys drop the bits above."""
Pixels = Annotated[int, Bounds(least=1, most=16384)]
"""Height or width; H.264 ends there."""
FrameCount = Annotated[int, Bounds(least=1, most=65536)]
"""Frames that are computed at once."""
Fps = Annotated[float, Bounds(above=0, most=1000)]
SamplingSteps = Annotated[int, Bounds(least=1, most=10000)]
"""More than the timesteps that float32 can tell apart near the noise gain nothing."""
GuidanceScale = Annotated[float, Bounds(least=1, most=1000)]
"""1 is without guidance."""
Shift = Annotated[float, Bounds(above=0, most=1e6)]
"""Time shift of a schedule; 0 would make every timestep 0."""
NoiseLevel = Annotated[float, Bounds(above=0, most=1)]
"""Of refinement's start: 1 is noise alone."""
TextTokens = Annotated[int, Bounds(least=2, most=32768)]
"""Length of a tokenized prompt: at least a token and the end."""
Axis = Annotated[int, Bounds(least=-1, most=2**20)]
"""Devices along an axis of the mesh, or -1 for the rest; mesh.py says which are possible."""
Seconds = Annotated[float, Bounds(above=0, most=1e7)]


def check_fields(config: Any) -> None:
    """Checks each field of a dataclass against its annotation: types, choices and declared bounds.

    Raises:
        ValueError: values that do not fit; all are named, with what came and what is accepted.
    """
    kind: Any = type(config)
    problems = [
        problem for name, hint in field_hints(kind).items() if (problem := _problem(name, hint, getattr(config, name)))
    ]
    if problems:
        raise ValueError("; ".join(problems))


def check_value(name: str, hint: Any, value: Any) -> None:
    """Checks one value against an annotation, as `check_fields` does.

    Raises:
        ValueError: it does not fit.
    """
    if problem := _problem(name, hint, value):
        raise ValueError(problem)


@functools.cache
def field_hints(kind: Any) -> dict[str, Any]:
    """The annotations of a dataclass's fields, with their bounds."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _problem(place: str, hint: Any, value: Any, bounds: Bounds | None = None) -> str | None:
    """What is wrong with a value, if anything."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        declared = next((each for each in arguments[1:] if isinstance(each, Bounds)), bounds)
        return _problem(place, arguments[0], value, declared)
    if origin in (types.UnionType, typing.Union):
        return _problem_of_union(place, arguments, value, bounds)
    if origin is Literal:
        fits = any(value == choice and type(value) is type(choice) for choice in arguments)
        return None if fits else f"{place} must be {' or '.join(map(repr, arguments))}, got {shown(value)}"
    if origin is tuple:
        return _problem_of_tuple(place, arguments, value)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            return f"{place} must be a mapping, got {shown(value)}"
        problems = (_problem(f"{place}[{key!r}]", arguments[1], each) for key, each in value.items())
        return next(filter(None, problems), None)
    if not isinstance(hint, type) or origin is not None:
        return None
    if not _is_a(hint, value):
        limits = f", {bounds}" if bounds else ""
        return f"{place} must be {_NAMES.get(hint, f'a {hint.__name__}')}{limits}, got {shown(value)}"
    if bounds and not bounds.holds(value, limit := _INT32_MAX if hint is int else _FLOAT32_MAX):
        accepted = _limits(bounds, value, limit)
        return f"{place} must {'lie' if accepted.startswith('in ') else 'be'} {accepted}, got {shown(value)}"
    return None


def _problem_of_union(place: str, choices: tuple[Any, ...], value: Any, bounds: Bounds | None) -> str | None:
    problems = [_problem(place, choice, value, bounds) for choice in choices if choice is not types.NoneType]
    if (value is None and types.NoneType in choices) or None in problems:
        return None
    fitting = [
        problem
        for choice, problem in zip([each for each in choices if each is not types.NoneType], problems, strict=True)
        if _is_a(_kind(choice), value)
    ]
    return (fitting or problems)[0]


def _problem_of_tuple(place: str, items: tuple[Any, ...], value: Any) -> str | None:
    if not isinstance(value, tuple):
        return f"{place} must be a tuple, got {shown(value)}"
    hints = items[:1] * len(value) if items[-1:] == (...,) else items
    if len(hints) != len(value):
        return f"{place} must have {len(hints)} values, got {shown(value)}"
    problems = (_problem(f"{place}[{i}]", hint, each) for i, (hint, each) in enumerate(zip(hints, value, strict=True)))
    return next(filter(None, problems), None)


def _kind(hint: Any) -> Any:
    """The class that a value of an annotation has."""
    while typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    return typing.get_origin(hint) or hint


def _is_a(kind: Any, value: Any) -> bool:
    """Whether a value has a type: numbers of NumPy are numbers, booleans are none."""
    if kind in (int, float):
        wanted = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, wanted) and not isinstance(value, bool)
    return isinstance(kind, type) and isinstance(value, kind)


def _limits(bounds: Bounds, value: Any, limit: int | float) -> str:
    """The range, with the implied limit where it is that which was passed."""
    if bounds.most is not None or -limit <= value <= limit:
        return str(bounds)
    implied = "finite" if limit == _FLOAT32_MAX else f"at most {limit}"
    return implied if str(bounds) == "finite" else f"{bounds} and {implied}"


def shown(value: Any) -> str:
    """A value for a message, shortened."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
