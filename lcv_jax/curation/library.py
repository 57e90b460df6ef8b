"""The library: what stages found about sources and clips, as Parquet files that DuckDB joins. No server.

    LIBRARY/
      lock                         held by the one process that writes
      current.json                 the version and settings of every stage whose results are shown, in order
      sources/part-*.parquet       files that were found, with the MD5 of their content
      stages/NAME/V-DIGEST/        results of a stage with a version and settings: part-*.parquet
      files/NAME/                  files that a stage wrote

A result belongs to the content that was read: it is found again by the key of its row, the stage's digest and `_input`,
the MD5 of the values read. So a stage with other settings adds a folder, whoever goes back finds the old results, and
a film that was moved or renamed is the same. Every row of a part is an outcome: a result, one of several (`_count`), or
a fault (`_reason`).
"""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lcv_jax.curation.parts import Parts, type_name, type_named
from lcv_jax.curation.stage import FOLDER, KEYS, GroupStage, Outcome, Row, Stage, attempt_group, digest
from lcv_jax.extras import import_extra
from lcv_jax.own_files import lock_file, write_json
from lcv_jax.user_files import read_json

SOURCE_COLUMNS: dict[str, Any] = {"source": str, "path": Path, "source_id": str, "bytes": int, "copies": int}
"""What is known of every source before any stage: `copies` are files of the same content."""
_LISTING = {
    "path": Path, "source": str, "source_id": str, "bytes": int, "stat": list[int], "_reason": str, "_at": int,
}  # fmt: skip
_OUTCOME = {"_input": str, "_reason": str, "_count": int, "_seconds": float, "_at": int}
DUPLICATE = "duplicate_of"
"""A column of sources: those with a value are not cut into clips."""


class Library:
    """A library, opened for reading, or for writing within `writing`."""

    def __init__(self, folder: Path):
        self.folder = folder.absolute()
        self.listing = Parts(self.folder / "sources", _LISTING, self.folder)
        self._current: dict[str, dict[str, Any]] = {}
        if (self.folder / "current.json").is_file():
            self._current = read_json(self.folder / "current.json")

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Within, this process is the only one that writes; what a killed one left is put in order first.

        Raises:
            ValueError: another process writes, or the folder holds other things.
        """
        if self.folder.is_dir() and any(self.folder.iterdir()) and not (self.folder / "lock").is_file():
            raise ValueError(f"{self.folder} holds other things: give another folder for the library")
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = lock_file(self.folder / "lock", self.folder)
        try:
            self.listing.recover()
            for name in self._current:
                self._parts(name).recover()
            yield
        finally:
            os.close(lock)

    def adopt(self, stage: Stage | GroupStage) -> None:
        """Makes a stage with its version and settings the one whose results are shown.

        Raises:
            ValueError: it reads a column that no stage before it writes, or writes one that another does.
        """
        before = {name: each for name, each in self._current.items() if name != stage.name}
        self._check_columns(stage, before)
        described = {
            "folder": _folder(stage),
            "of": stage.of,
            "makes": stage.makes if isinstance(stage, Stage) else None,
            "group": isinstance(stage, GroupStage),
            "by": stage.by if isinstance(stage, GroupStage) else None,
            "reads": {name: type_name(kind) for name, kind in stage.reads.items()},
            "writes": {name: type_name(kind) for name, kind in stage.writes.items()},
        }
        if self._current.get(stage.name) != described:
            self._current[stage.name] = described
            self._current = _in_order(self._current)
            write_json(self.folder / "current.json", self._current)
        self._parts(stage.name).recover()

    def _check_columns(self, stage: Stage | GroupStage, before: Mapping[str, Mapping[str, Any]]) -> None:
        for name in stage.reads:
            if name not in {*SOURCE_COLUMNS, *KEYS[stage.of], FOLDER} and not any(
                name in each["writes"] for each in before.values()
            ):
                raise ValueError(f"stage {stage.name} reads {name!r}, which no stage has written: run its stage before")
        for other, each in before.items():
            common = set(each["writes"]) & set(stage.writes) - set(KEYS[stage.of])
            if common:
                raise ValueError(f"the stages {other} and {stage.name} both write {', '.join(sorted(common))}")

    def pending(self, stage: Stage, *, retry: bool = False) -> tuple[int, Iterator[Row]]:
        """How many rows a stage has to do, and the rows.

        Args:
            stage: an adopted one.
            retry: rows that are quarantined too.
        """
        outcome = f'NOT "_done_{stage.name}"' + ("" if retry else f' AND "_reason_{stage.name}" IS NULL')
        where = f'WHERE "_ready_{stage.name}" AND {outcome}'
        table = _state(stage.of)
        connection = self.connect(upto=stage.name)
        (count,) = connection.execute(f"SELECT count(*) FROM {table} {where}").fetchone()
        names = list(dict.fromkeys([*KEYS[stage.of], *(name for name in stage.reads if name != FOLDER)]))
        columns = ", ".join(f'"{name}"' for name in [*names, f"_input_{stage.name}"])
        order = "bytes DESC, source" if stage.of == "source" else "clip"
        rows = connection.execute(f"SELECT {columns} FROM {table} {where} ORDER BY {order}")
        return count, self._rows(rows, names, stage)

    def _rows(self, result: Any, names: Sequence[str], stage: Stage) -> Iterator[Row]:
        paths = [name for name in names if stage.reads.get(name) is Path]
        folder = self.folder / "files" / stage.name
        if FOLDER in stage.reads:
            folder.mkdir(parents=True, exist_ok=True)
        while found := result.fetchmany(1024):
            for values in found:
                row = dict(zip([*names, "_input"], values, strict=True))
                for name in paths:
                    row[name] = None if row[name] is None else self.folder / row[name]
                yield row | ({FOLDER: folder} if FOLDER in stage.reads else {})

    def run_group(self, stage: GroupStage, *, retry: bool = False) -> tuple[int, int]:
        """Runs a stage over groups of rows that changed; returns the number of rows in them, and that of faults.

        Args:
            stage: an adopted one.
            retry: groups that are quarantined too.
        """
        connection = self.connect(upto=stage.name)
        by = KEYS[stage.by][0] if stage.by else None
        names = list(dict.fromkeys([*KEYS[stage.of], *stage.reads]))
        state = f'"_ready_{stage.name}" AND NOT "_done_{stage.name}"'
        state += "" if retry else f' AND "_reason_{stage.name}" IS NULL'
        found = connection.execute(
            f"SELECT {', '.join(_quoted([*names, f'_input_{stage.name}']))} FROM {_state(stage.of)} "
            f"WHERE {state} ORDER BY {by or '1'}, {KEYS[stage.of][0]}"
        ).fetchall()
        groups: dict[Any, list[tuple[Any, ...]]] = {}
        for values in found:
            groups.setdefault(values[names.index(by)] if by else None, []).append(values)
        with self.results(stage) as results:
            for rows in groups.values():
                begun = time.monotonic()
                columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
                for name in (name for name, kind in stage.reads.items() if kind is Path):
                    columns[name] = [None if path is None else self.folder / path for path in columns[name]]
                made, fault = attempt_group(stage, columns)
                seconds = (time.monotonic() - begun) / len(rows)
                for place, values in enumerate(rows):
                    key = values[names.index(KEYS[stage.of][0])]
                    outcome = Outcome(key=key, rows=made[place : place + 1], fault=fault, seconds=seconds)
                    results.add(outcome, values[-1])
        return len(found), results.faults

    @contextlib.contextmanager
    def results(self, stage: Stage | GroupStage) -> Iterator["Results"]:
        """Where outcomes of a stage go."""
        results = Results(self._parts(stage.name), KEYS[stage.of][0])
        try:
            yield results
        finally:
            results.close()

    def connect(self, upto: str | None = None) -> Any:
        """A DuckDB connection with the views `sources`, `clips` and `quarantine`, and the state of every stage.

        Args:
            upto: leave out what comes after this stage.
        """
        duckdb = import_extra("duckdb", "curate", "a library of curation needs")
        connection = duckdb.connect()
        connection.execute("SET preserve_insertion_order = false")
        names = list(self._current)
        if upto is not None:
            names = names[: names.index(upto) + 1]
        connection.execute(f"CREATE VIEW listing AS {_latest(self.listing.relation(), 'path')}")
        base = (
            "SELECT source, arg_max(path, _at) AS path, any_value(source_id) AS source_id, "
            "any_value(bytes) AS bytes, count(*) AS copies FROM listing WHERE source IS NOT NULL GROUP BY source"
        )
        relations = {"source": base, "clip": f"SELECT NULL::VARCHAR AS clip, * FROM ({base}) WHERE false"}
        for name in names:
            self._add_stage(name, relations)
        for kind, relation in relations.items():
            connection.execute(f"CREATE VIEW {_state(kind)} AS {relation}")
            connection.execute(f"CREATE VIEW {kind}s AS SELECT COLUMNS('^[^_].*') FROM {_state(kind)}")
        connection.execute(f"CREATE VIEW quarantine AS {self._quarantine(names)}")
        return connection

    def connect_to_clips(self) -> Any:
        """`connect`, with the clips in a table instead of a view: whoever asks often has them put together once.

        Raises:
            ValueError: there are no clips.
        """
        connection = self.connect()
        (count,) = connection.execute("CREATE TEMP TABLE clips AS SELECT * FROM clips").fetchone()
        if not count:
            raise ValueError(f"{self.folder}: holds no clips yet: run the stage that cuts them")
        return connection

    def _add_stage(self, name: str, relations: dict[str, str]) -> None:
        """Joins a stage's results to the rows of its kind, and makes the clips where it makes them."""
        cfg = self._current[name]
        of, writes = cfg["of"], list(cfg["writes"])
        key = KEYS[of][0]
        reads = [each for each, kind in cfg["reads"].items() if kind != "Path"]
        needs = [
            other
            for other, each in self._current.items()
            if other != name
            and set(each["writes"]) & set(cfg["reads"])
            and (each["makes"] or each["of"]) == of
            and not each["makes"]
        ]
        ready = " AND ".join([f'"_done_{other}"' for other in needs] or ["true"])
        if of == "source" and self._writes_duplicates(before=name):
            ready += f" AND {DUPLICATE} IS NULL"
        values = ", ".join(f"coalesce(CAST(\"{each}\" AS VARCHAR), '\\N')" for each in reads) or "''"
        state = f'SELECT *, {ready} AS "_ready_{name}", md5(concat_ws(\'|\', {values})) AS "_own_{name}" '
        state += f"FROM ({relations[of]})"
        state = self._with_input(state, name, cfg)
        outcomes = _latest(self._parts(name).relation(), f"{key}, _input")
        single = f"SELECT * FROM ({outcomes}) QUALIFY row_number() OVER (PARTITION BY {key}, _input) = 1"
        shown = "" if cfg["makes"] else "".join(f', p."{each}"' for each in writes)
        relations[of] = (
            f'SELECT r.*{shown}, p._reason AS "_reason_{name}", p._seconds AS "_seconds_{name}", '
            f'(p._input IS NOT NULL AND p._reason IS NULL) AS "_done_{name}" '
            f'FROM ({state}) r LEFT JOIN ({single}) p ON p.{key} = r.{key} AND p._input = r."_input_{name}"'
        )
        if cfg["makes"]:
            made = ", ".join(f'p."{each}"' for each in writes)
            relations["clip"] = (
                f"SELECT {made}, s.* FROM ({relations['source']}) s JOIN ({outcomes}) p "
                f'ON p.source = s.source AND p._input = s."_input_{name}" WHERE p._count > 0 AND s."_ready_{name}"'
            )

    def _with_input(self, state: str, name: str, cfg: Mapping[str, Any]) -> str:
        """Adds the digest of what was read: of the row, or of all rows of its group."""
        if not cfg["group"]:
            return f'SELECT *, "_own_{name}" AS "_input_{name}" FROM ({state})'
        by, key = (KEYS[cfg["by"]][0] if cfg["by"] else "''"), KEYS[cfg["of"]][0]
        groups = (
            f'SELECT {by} AS _group, md5(string_agg({key} || "_own_{name}", \'\' ORDER BY {key})) AS "_input_{name}" '
            f'FROM ({state}) WHERE "_ready_{name}" GROUP BY 1'
        )
        same = f"t.{by}" if cfg["by"] else "''"
        return f'SELECT t.*, g."_input_{name}" FROM ({state}) t LEFT JOIN ({groups}) g ON g._group = {same}'

    def _writes_duplicates(self, before: str) -> bool:
        names = list(self._current)
        return any(DUPLICATE in self._current[name]["writes"] for name in names[: names.index(before)])

    def _quarantine(self, names: Sequence[str]) -> str:
        queries = [
            "SELECT 'files' AS stage, NULL::VARCHAR AS source, NULL::VARCHAR AS clip, path, _reason AS reason "
            "FROM listing WHERE _reason IS NOT NULL"
        ]
        for name in names:
            clip = "clip" if self._current[name]["of"] == "clip" else "NULL"
            table = _state(self._current[name]["of"])
            queries.append(
                f"SELECT '{name}', source, {clip}, path, \"_reason_{name}\" FROM {table} "
                f'WHERE "_reason_{name}" IS NOT NULL'
            )
        return " UNION ALL ".join(queries)

    def stages(self) -> list[str]:
        """Names of the stages that have run, in order."""
        return list(self._current)

    def shows(self, stage: Stage | GroupStage) -> bool:
        """Whether results of this stage with this version and these settings are shown."""
        return self._current.get(stage.name, {}).get("folder") == _folder(stage)

    def columns(self) -> dict[str, str]:
        """Columns that stages wrote, with the stage's name."""
        return {column: name for name, each in self._current.items() for column in each["writes"]}

    def of(self, name: str) -> str:
        """Whose rows a stage reads."""
        return str(self._current[name]["of"])

    def _parts(self, name: str) -> Parts:
        cfg = self._current[name]
        writes = {each: type_named(kind) for each, kind in cfg["writes"].items()}
        columns = {KEYS[cfg["of"]][0]: str, **writes, **_OUTCOME}
        return Parts(self.folder / "stages" / name / cfg["folder"], columns, self.folder)


class Results:
    """Takes outcomes of a stage; each is kept at once."""

    def __init__(self, parts: Parts, key: str):
        self._parts, self._key = parts, key
        self.done = self.faults = 0

    def add(self, outcome: Outcome, read: str) -> None:
        """Keeps an outcome.

        Args:
            outcome: of a row.
            read: the row's `_input`.
        """
        told: dict[str, Any] = {
            self._key: outcome.key,
            "_input": read,
            "_reason": outcome.fault,
            "_count": len(outcome.rows),
        }
        told |= {"_seconds": outcome.seconds, "_at": time.time_ns()}
        self._parts.append([row | told for row in outcome.rows] or [told])
        self.done += 1
        self.faults += outcome.fault is not None

    def close(self) -> None:
        """Writes what is not in a part yet."""
        self._parts.close()


def _folder(stage: Stage | GroupStage) -> str:
    return f"v{stage.version}-{digest(stage)}"


def _in_order(current: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Stages as they are, but each after those whose columns it reads: a new version may read what came later."""
    ordered: dict[str, dict[str, Any]] = {}

    def add(name: str) -> None:
        for other, each in current.items():
            if other != name and other not in ordered and set(each["writes"]) & set(current[name]["reads"]):
                add(other)
        ordered.setdefault(name, current[name])

    for name in current:
        add(name)
    return ordered


def _state(kind: str) -> str:
    return f"{kind}_state"


def _quoted(names: Sequence[str]) -> list[str]:
    return [f'"{name}"' for name in names]


def _latest(relation: str, keys: str) -> str:
    """The rows that were written last for each key."""
    return f"SELECT * FROM ({relation}) QUALIFY rank() OVER (PARTITION BY {keys} ORDER BY _at DESC) = 1"
