"""Dataclasses from the values of a JSON file."""

import contextlib
import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lcv_jax.bounds import shown


def from_json(kind: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass from JSON values: lists become tuples, strings paths where paths are wanted.

    Raises:
        ValueError: a missing key, or a value of another type than the field's; it is named.
    """
    missing = [field.name for field in dataclasses.fields(kind) if _is_required(field) and field.name not in values]
    if missing:
        raise ValueError(f"missing: {', '.join(missing)}")
    hints, made = typing.get_type_hints(kind), {}
    for key, value in values.items():
        one_of_many = isinstance(value, str) and typing.get_origin(hints[key]) is tuple
        try:
            made[key] = _as(hints[key], [value] if one_of_many else value)
        except TypeError:
            raise ValueError(f"{key} must be {_as_text(hints[key])}, got {shown(value)}") from None
    return kind(**made)


def _as_text(hint: Any) -> str:
    """An annotation as it is written."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " | ".join("None" if one is types.NoneType else _as_text(one) for one in typing.get_args(hint))
    return str(hint).replace("typing.", "") if typing.get_args(hint) else hint.__name__


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _as(hint: Any, value: Any) -> Any:
    """A JSON value as what an annotation says: lists as tuples, whole numbers as floats, strings as paths."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        for one in arguments:
            with contextlib.suppress(TypeError):
                return _as(one, value)
    elif origin is Literal and value in arguments:
        return value
    elif origin is tuple and isinstance(value, list):
        items = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        if len(items) == len(value):
            return tuple(map(_as, items, value))
    elif origin is None and isinstance(value, hint) and isinstance(value, bool) == (hint is bool):
        return value
    elif hint is float and type(value) is int:
        return float(value)
    elif hint is Path and isinstance(value, str):
        return Path(value)
    raise TypeError
