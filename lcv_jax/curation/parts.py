"""An append-only table: Parquet parts, and a journal of the rows that are not in a part yet.

A row is in the journal as soon as it is appended, so that a process can be killed at any moment; a full journal becomes
a part of the same number. Files are added and never rewritten. One process writes at a time; its caller holds a lock.
"""

import base64
import json
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lcv_jax.extras import import_extra
from lcv_jax.own_files import naming_write_errors, replacing

ROWS_PER_PART = 4096
_PURPOSE = "a library of curation needs"


class Parts:
    """The table in a folder.

    Args:
        folder: created with the first row.
        columns: names and types, as in stage.py.
        root: paths below it are kept relative to it, so that the folder can be moved.
    """

    def __init__(self, folder: Path, columns: Mapping[str, Any], root: Path):
        self.folder, self.columns, self._root = folder, columns, root
        self._file: Any = None
        self._count = 0

    def recover(self) -> None:
        """Makes parts of the journals that a killed process left."""
        for journal in sorted(self.folder.glob("journal-*.jsonl")):
            self._to_part(journal)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows, all of them or, if the process is killed meanwhile, none."""
        packed = [self._packed(row) for row in rows]
        if not packed:
            return
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            numbers = [int(path.stem.split("-")[1]) for path in self.folder.glob("*-*.*") if path.suffix != ".json"]
            self._journal = self.folder / f"journal-{max(numbers, default=0) + 1:06d}.jsonl"
            self._file, self._count = open(self._journal, "ab", buffering=0), 0  # noqa: SIM115
        # One line for all: a line that was cut off is ignored as a whole.
        line = json.dumps(packed).encode() + b"\n"
        with naming_write_errors(self._journal):
            written = self._file.write(line)
            if written != len(line):  # the disk is full: the next write says so
                self._file.write(line[written:])
        self._count += len(packed)
        if self._count >= ROWS_PER_PART:
            self.close()

    def close(self) -> None:
        """Makes a part of the journal."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._to_part(self._journal)

    def relation(self) -> str:
        """SQL of a query for all rows in parts."""
        if any(self.folder.glob("part-*.parquet")):
            pattern = str(self.folder / "part-*.parquet").replace("'", "''")
            return f"SELECT * FROM read_parquet('{pattern}')"
        columns = ", ".join(f'NULL::{sql_type(kind)} AS "{name}"' for name, kind in self.columns.items())
        return f"SELECT {columns} WHERE false"

    def _to_part(self, journal: Path) -> None:
        part = journal.with_name(journal.stem.replace("journal", "part") + ".parquet")
        if not part.is_file():
            rows = list(_lines(journal))
            if rows:
                pyarrow = import_extra("pyarrow", "curate", _PURPOSE)
                parquet = import_extra("pyarrow.parquet", "curate", _PURPOSE)
                schema = pyarrow.schema([(name, arrow_type(kind)) for name, kind in self.columns.items()])
                columns = {name: [_unpacked(kind, row[name]) for row in rows] for name, kind in self.columns.items()}
                with replacing(part) as partial:
                    parquet.write_table(pyarrow.table(columns, schema=schema), partial)
        journal.unlink()

    def _packed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row as JSON takes it."""
        return {name: self._pack(row.get(name)) for name in self.columns}

    def _pack(self, value: Any) -> Any:
        if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        if isinstance(value, Path):
            path = value.absolute()
            return str(path.relative_to(self._root) if path.is_relative_to(self._root) else path)
        return [self._pack(item) for item in value] if isinstance(value, list) else value


def _lines(journal: Path) -> Iterable[dict[str, Any]]:
    for line in journal.read_bytes().split(b"\n"):
        try:
            yield from json.loads(line) if line else ()
        except ValueError:  # a line that was cut off by the end of its writer
            return


def _unpacked(kind: Any, value: Any) -> Any:
    if kind is bytes and value is not None:
        return base64.b64decode(value)
    if typing.get_origin(kind) is list and value is not None:
        return [_unpacked(typing.get_args(kind)[0], item) for item in value]
    return value


_TYPES = {
    bool: ("bool_", "BOOLEAN"), int: ("int64", "BIGINT"), float: ("float64", "DOUBLE"), str: ("string", "VARCHAR"),
    Path: ("string", "VARCHAR"), bytes: ("binary", "BLOB"),
}  # fmt: skip


def arrow_type(kind: Any) -> Any:
    """The Arrow type of a column's type."""
    pyarrow = import_extra("pyarrow", "curate", _PURPOSE)
    if typing.get_origin(kind) is list:
        return pyarrow.list_(arrow_type(typing.get_args(kind)[0]))
    return getattr(pyarrow, _TYPES[kind][0])()


def sql_type(kind: Any) -> str:
    """DuckDB's type of a column's type."""
    return f"{sql_type(typing.get_args(kind)[0])}[]" if typing.get_origin(kind) is list else _TYPES[kind][1]


def type_name(kind: Any) -> str:
    """A column's type as it is kept in JSON."""
    return f"list[{type_name(typing.get_args(kind)[0])}]" if typing.get_origin(kind) is list else kind.__name__


def type_named(name: str) -> Any:
    """The type of a name that `type_name` gave."""
    if name.startswith("list["):
        return list[type_named(name[5:-1])]  # type: ignore[misc]
    return {kind.__name__: kind for kind in _TYPES}[name]
