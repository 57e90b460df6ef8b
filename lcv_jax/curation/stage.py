"""The stage contract: a stage is a pure function of a row and a description of it. It knows no engine and no library.

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings:
        side: Pixels = 256

        def __post_init__(self) -> None:
            check_fields(self)

    def blur(row: Row, settings: Settings) -> Row:
        return {"blur": ...}

    STAGE = Stage(
        name="blur", version=1, run=blur, settings=Settings(), reads={"clip_path": Path}, writes={"blur": float}
    )

Rows are of sources (key `source`, the MD5 of the file) or of clips (key `clip`; a clip also has the key of its source).
A stage gets the columns that it reads and returns those that it writes; the key is added. Videos never travel in rows:
a stage writes files into the folder of the column `folder`, which whoever runs it provides, and returns their paths.

A result is up to date as long as version, settings and what was read are the same. Columns and settings of the type
Path say where something is, not what it is: they are not compared. A stage that writes a file also writes a digest of
its content, and stages that read the file read both.
"""

import dataclasses
import hashlib
import json
import math
import numbers
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from lcv_jax.bounds import field_hints, shown
from lcv_jax.own_files import full_disk
from lcv_jax.user_files import reason

Row = dict[str, Any]
Columns = Mapping[str, Any]
"""Names of columns with their types: bool, int, float, str, bytes (small: hashes, maps), Path, or list[...] of these.
None is allowed in every column and means that there is no value; NaN and infinities are not."""
Kind = Literal["source", "clip"]
KEYS: dict[Kind, tuple[str, ...]] = {"source": ("source",), "clip": ("clip", "source")}
"""Columns that every row of a kind has, its key first."""
FOLDER = "folder"
"""A column that stages may read: a folder of their own, for the files they write."""
INCIDENTAL = "incidental"
"""`Annotated[str, INCIDENTAL]`: a setting that does not change results, such as the address of a server."""
Seconds = float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What one row takes, for engines to schedule by."""

    cores: float = 1.0
    gpus: float = 0.0
    calls: int = 0
    """Rows that wait for a remote server at the same time. Above 0 the stage runs in threads: it computes nothing."""
    timeout: Seconds = 3600.0
    """A row that takes longer is quarantined."""
    memory: int = 0
    """Megabytes that the stage's own network takes, which a worker may take besides what it is allowed for a row."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """A function of one row, and its description."""

    name: str
    version: int
    """Raised whenever the same row and settings give another result."""
    run: Callable[[Row, Any], Row | list[Row]]
    """`run(row, settings)`: the written columns; a list of them where `makes` is given. Whatever exception it raises is
    a fault of the row, which is quarantined with the exception's message; a full disk and a missing package are not."""
    settings: Any
    """A frozen dataclass that checks its bounds."""
    reads: Columns
    writes: Columns
    of: Kind = "clip"
    """Whose rows are read."""
    makes: Kind | None = None
    """Kind of the rows that are made out of one, if they are new ones; `writes` then includes their key."""
    cost: Cost = Cost()


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupStage:
    """A function of many rows at once, all of them or all of one source, such as the search for duplicates."""

    name: str
    version: int
    run: Callable[[dict[str, list[Any]], Any], Mapping[str, Sequence[Any]]]
    """`run(columns, settings)`: a value of each written column for each row, in the same order. The keys are among the
    columns."""
    settings: Any
    reads: Columns
    writes: Columns
    of: Kind = "clip"
    by: Kind | None = None
    """Groups of rows that have the same key of this kind; None: one group of all rows."""
    cost: Cost = Cost()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a row."""

    key: str
    rows: list[Row] = dataclasses.field(default_factory=list)
    fault: str | None = None
    """Why it is quarantined."""
    seconds: Seconds = 0.0


def attempt(stage: Stage, row: Row) -> Outcome:
    """Runs a stage on a row; a fault of the row becomes an outcome.

    Raises:
        DiskFullError: a file that the stage writes does not fit on its disk.
        ImportError: a package is not installed.
    """
    key, begun = row[KEYS[stage.of][0]], time.monotonic()
    try:
        found = stage.run(row, stage.settings)
        rows = _checked(stage, found)
    except ImportError:
        raise
    except Exception as error:
        if full := full_disk(error, Path(row.get(FOLDER) or ".")):
            raise full from None
        return Outcome(key=key, fault=reason(error), seconds=time.monotonic() - begun)
    return Outcome(key=key, rows=rows, seconds=time.monotonic() - begun)


def attempt_group(stage: GroupStage, columns: dict[str, list[Any]]) -> tuple[list[Row], str | None]:
    """Runs a stage on a group of rows: what is written for each, or the fault of all.

    Raises:
        ImportError: a package is not installed.
    """
    try:
        written = stage.run(columns, stage.settings)
        rows = [
            dict(zip(stage.writes, values, strict=True))
            for values in zip(*map(written.__getitem__, stage.writes), strict=True)
        ]
        count = len(next(iter(columns.values())))
        if len(rows) != count:
            raise ValueError(f"stage {stage.name} must return {count} values of each column, got {len(rows)}")
        return [
            {name: as_column(stage.name, name, kind, row[name]) for name, kind in stage.writes.items()} for row in rows
        ], None
    except ImportError:
        raise
    except Exception as error:
        return [], reason(error)


def _checked(stage: Stage, found: Row | list[Row]) -> list[Row]:
    """The rows that a stage made, as declared."""
    many = stage.makes is not None
    if not isinstance(found, list if many else dict):
        raise TypeError(f"stage {stage.name} must return {'a list of rows' if many else 'a row'}, got {shown(found)}")
    rows: list[Row] = list(found) if isinstance(found, list) else [found]
    for row in rows:
        if row.keys() != stage.writes.keys():
            wrong = ", ".join(sorted(row.keys() ^ stage.writes.keys()))
            raise TypeError(f"stage {stage.name} must return the columns that it writes; these differ: {wrong}")
    return [{name: as_column(stage.name, name, kind, row[name]) for name, kind in stage.writes.items()} for row in rows]


def as_column(stage: str, name: str, kind: Any, value: Any) -> Any:
    """A value as its column has it: numbers of NumPy become Python's.

    Raises:
        TypeError: another type.
        ValueError: a number that is not finite.
    """
    if value is None:
        return None
    if typing.get_origin(kind) is list:
        if not isinstance(value, list):
            raise TypeError(f"stage {stage}: {name} must be a list, got {shown(value)}")
        return [as_column(stage, name, typing.get_args(kind)[0], item) for item in value]
    accepted: Any = {int: numbers.Integral, float: numbers.Real, bool: (bool, np.bool_)}.get(kind, kind)
    if not isinstance(value, accepted) or (kind in (int, float) and isinstance(value, bool)):
        raise TypeError(f"stage {stage}: {name} must be a {kind.__name__}, got {shown(value)}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{name} is {value}: no number could be computed")
    return kind(value)


def digest(stage: Stage | GroupStage) -> str:
    """Identifies a stage with its version and settings: results under another digest are others."""
    kept = {"name": stage.name, "version": stage.version, "settings": content_settings(stage.settings)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def content_settings(settings: Any) -> dict[str, Any]:
    """The settings that results depend on."""
    kind: Any = type(settings)
    return {
        name: content_settings(value) if dataclasses.is_dataclass(value) else value
        for name, hint in field_hints(kind).items()
        if not _is_incidental(hint) and not isinstance(value := getattr(settings, name), Path)
    }


def _is_incidental(hint: Any) -> bool:
    return typing.get_origin(hint) is Annotated and INCIDENTAL in hint.__metadata__
