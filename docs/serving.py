"""Writes the table of fields into docs/serving.md: `python docs/serving.py`."""

import typing
from pathlib import Path
from typing import Annotated, Any, Literal

from lcv_jax.bounds import Bounds
from lcv_jax.serving.fields import FIELDS

PAGE = Path(__file__).with_suffix(".md")
_KINDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def filled(text: str) -> str:
    """The page with the table as it is now."""
    rows = ["| field | value | |", "|---|---|---|"]
    rows += [f"| `{name}` | {_value(field.hint)} | {field.doc} |" for name, field in FIELDS.items()]
    before, rest = text.split("<!-- fields -->\n")
    return f"{before}<!-- fields -->\n" + "\n".join(rows) + "\n<!-- end -->" + rest.split("<!-- end -->", 1)[1]


def _value(hint: Any, bounds: Bounds | None = None) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _value(arguments[0], next(each for each in arguments[1:] if isinstance(each, Bounds)))
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin is tuple:
        return "list of texts" if arguments == (str, ...) else "object of numbers"
    limits = "" if bounds is None or str(bounds) == "finite" else f", {bounds}"
    return f"{_KINDS[hint]}{limits}"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
