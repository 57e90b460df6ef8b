"""SQLite and PostgreSQL behind one small interface, with one text of SQL for both.

A statement has `?` for each value, and names in braces for what the two spell differently: {now}, seconds since 1970 by
the database's clock; {number}, a column that counts rows; {skip_locked}, which passes over rows that another server is
changing. Errors of a database are OSErrors that name it.
"""

import abc
import contextlib
import errno
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcv_jax.extras import import_extra
from lcv_jax.own_files import DiskFullError, disk_full

_CONNECT_SECONDS = 5
_BUSY_SECONDS = 1.0  # for a server that is about to end
_STATEMENT_MILLISECONDS = 10_000


class DatabaseError(OSError):
    """A database that cannot be reached, or that refuses a statement."""


@dataclass(frozen=True)
class Rows:
    """What a statement returned, and how many rows it changed."""

    rows: list[dict[str, Any]]
    changed: int


class Database(abc.ABC):
    """A connection to a database, for one thread."""

    shared: bool
    """Whether other servers use it too."""
    name: str
    """For messages; without a password."""

    @abc.abstractmethod
    def run(self, statement: str, *values: Any) -> Rows:
        """Runs a statement as a transaction of its own.

        Raises:
            OSError: it cannot be run.
        """

    @abc.abstractmethod
    def create(self, table: str, version: int, statements: str) -> int:
        """Creates what is missing of a table and its indices, and returns the version of what is there."""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the connection."""


class SQLite(Database):
    """A file, for one server at a time."""

    shared = False
    _words = {
        "now": "(julianday('now') - 2440587.5) * 86400.0",
        "number": "INTEGER PRIMARY KEY AUTOINCREMENT",
        "skip_locked": "",
    }

    def __init__(self, path: Path):
        self.name, self._path = str(path), path
        with self._naming_errors():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_SECONDS)
            self._db.row_factory = sqlite3.Row
            # Exclusive: a second server would take the first one's jobs for those of a killed one.
            for setting in (
                "locking_mode = EXCLUSIVE",
                "journal_mode = WAL",
                "synchronous = NORMAL",
                "wal_autocheckpoint = 200",
            ):
                self._db.execute(f"PRAGMA {setting}")

    def run(self, statement: str, *values: Any) -> Rows:
        with self._naming_errors():
            cursor = self._db.execute(statement.format(**self._words), values)
            return Rows([dict(row) for row in cursor.fetchall()], cursor.rowcount)

    def create(self, table: str, version: int, statements: str) -> int:
        with self._naming_errors():
            (found,) = self._db.execute("PRAGMA user_version").fetchone()
            if found:
                return int(found)
            self._db.executescript(statements.format(**self._words))
            self._db.execute(f"PRAGMA user_version = {version}")
            return version

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorname", "")
            if code in ("SQLITE_FULL", "SQLITE_IOERR_WRITE"):
                raise disk_full(self._path, "the database cannot grow", "make room") from None
            if code == "SQLITE_BUSY":
                raise DatabaseError(
                    f"{self._path} is in use by another server: give another --folder, or --database for both"
                ) from None
            raise DatabaseError(f"{self._path}: {error}") from None


class PostgreSQL(Database):
    """A database that several servers share. A lost connection is made anew by the next statement."""

    shared = True
    _words = {
        "now": "extract(epoch FROM clock_timestamp())::float8",
        "number": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "skip_locked": "FOR UPDATE SKIP LOCKED",
    }

    def __init__(self, url: str):
        self._psycopg: Any = import_extra("psycopg", "postgres", "a PostgreSQL database needs")
        self._db: Any = None
        self._url, self.name = url, "the database"
        with self._naming_errors():
            info = self._psycopg.conninfo.conninfo_to_dict(url)
            host, port = info.get("host", "localhost"), info.get("port", 5432)
            self.name = f"postgresql://{host}:{port}/{info.get('dbname', '')}"
        self.run("SELECT 1")

    def run(self, statement: str, *values: Any) -> Rows:
        with self._naming_errors():
            cursor = self._connection().execute(self._own(statement), values)
            return Rows(cursor.fetchall() if cursor.description else [], cursor.rowcount)

    def create(self, table: str, version: int, statements: str) -> int:
        with self._naming_errors():
            db = self._connection()
            with db.transaction():
                db.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [table])  # servers that start at once
                found = db.execute("SELECT obj_description(to_regclass(%s), 'pg_class') AS version", [table]).fetchone()
                if found["version"]:
                    return int(found["version"])
                db.execute(self._own(statements))
                db.execute(f"COMMENT ON TABLE {table} IS '{version}'")
                return version

    def close(self) -> None:
        if self._db is not None:
            self._db.close()

    def _own(self, statement: str) -> str:
        return statement.format(**self._words).replace("?", "%s")

    def _connection(self) -> Any:
        if self._db is None or self._db.closed:
            self._db = self._psycopg.connect(
                self._url, autocommit=True, row_factory=self._psycopg.rows.dict_row, connect_timeout=_CONNECT_SECONDS,
                prepare_threshold=None, application_name="lcv_jax", keepalives_idle=_CONNECT_SECONDS,
                tcp_user_timeout=_STATEMENT_MILLISECONDS,
            )  # fmt: skip
            self._db.execute(f"SET statement_timeout = {_STATEMENT_MILLISECONDS}")
        return self._db

    @contextlib.contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except self._psycopg.errors.DiskFull:
            raise DiskFullError(errno.ENOSPC, "the database cannot grow: make room on its machine", self.name) from None
        except self._psycopg.Error as error:
            raise DatabaseError(f"{self.name}: {' '.join(str(error).split())}") from None


def connect(url: str | None, folder: Path) -> Database:
    """The database at a URL, or SQLite in a folder.

    Raises:
        ValueError: not a URL of PostgreSQL.
        OSError: it cannot be reached.
    """
    if url is None:
        return SQLite(folder / "jobs.sqlite")
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError("database must be like postgresql://USER@HOST/NAME, or left out for a file in --folder")
    return PostgreSQL(url)
