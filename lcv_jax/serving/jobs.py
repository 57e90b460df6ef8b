"""Jobs in SQLite, their files in folders beside it. A job has one state, and every change says from which it comes."""

import contextlib
import json
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from lcv_jax.own_files import disk_full

Status = Literal["queued", "in_progress", "completed", "failed"]
SIDECAR = "video.json"
"""The last file that is written of a video: where it is, all others are."""
IMAGE, CLIP = INPUTS = "image.png", "clip.mkv"
"""What a client sent, decoded."""
VERSION = 1
_TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT UNIQUE NOT NULL,
    owner TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('queued', 'in_progress', 'completed', 'failed')),
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    fields TEXT NOT NULL,
    task TEXT NOT NULL,
    warnings TEXT NOT NULL,
    video TEXT,
    bytes INTEGER NOT NULL DEFAULT 0,
    error_code TEXT,
    error_message TEXT,
    remixed_from TEXT,
    request_key TEXT,
    UNIQUE (owner, request_key)
);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status, number);
"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A row."""

    number: int
    id: str
    owner: str
    status: Status
    created: float
    started: float | None
    finished: float | None
    fields: dict[str, Any]
    """Of the request."""
    task: dict[str, Any]
    """Of generation/tasks.py, as flat JSON."""
    warnings: list[str]
    video: dict[str, Any] | None
    """num_frames, height, width and fps, when it is completed."""
    bytes: int
    error_code: str | None
    error_message: str | None
    remixed_from: str | None
    request_key: str | None


def new_id() -> str:
    """An id that cannot be guessed."""
    return f"video_{secrets.token_hex(16)}"


class JobStore:
    """The jobs of a server. One thread uses it.

    Args:
        folder: of the database and of a folder for each job.

    Raises:
        ValueError: a database of another version.
        OSError: it cannot be read or written.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "jobs").mkdir(parents=True, exist_ok=True)
        self._path = folder / "jobs.sqlite"
        with self._naming_errors():
            self._db = sqlite3.connect(self._path, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version not in (0, VERSION):
                raise ValueError(
                    f"{self._path} is of version {version}, this program reads {VERSION}: give another folder"
                )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA wal_autocheckpoint = 200")
            self._db.executescript(_TABLE)
            self._db.execute(f"PRAGMA user_version = {VERSION}")

    def close(self) -> None:
        """Closes the database."""
        self._db.close()

    def place(self, job_id: str) -> Path:
        """The folder of a job's files."""
        return self.folder / "jobs" / job_id

    def add(
        self,
        job_id: str,
        owner: str,
        fields: dict[str, Any],
        task: dict[str, Any],
        *,
        warnings: list[str],
        remixed_from: str | None = None,
        request_key: str | None = None,
    ) -> Job:
        """A new job at the end of the queue; or the job that the same request_key made before."""
        values = (
            job_id, owner, time.time(), json.dumps(fields), json.dumps(task), json.dumps(warnings), remixed_from,
            request_key,
        )  # fmt: skip
        self._run(
            "INSERT OR IGNORE INTO jobs"
            " (id, owner, status, created, fields, task, warnings, remixed_from, request_key)"
            " VALUES (?, ?, 'queued', ?, ?, ?, ?, ?, ?)",
            *values,
        )
        job = self.find(job_id) or (self.find_by_key(owner, request_key) if request_key else None)
        assert job is not None
        return job

    def find(self, job_id: str) -> Job | None:
        """A job, whoever's."""
        return next(self._jobs("WHERE id = ?", job_id), None)

    def find_by_key(self, owner: str, request_key: str) -> Job | None:
        """The job that an earlier request with this key made."""
        return next(self._jobs("WHERE owner = ? AND request_key = ?", owner, request_key), None)

    def page(self, owner: str, *, after: Job | None, limit: int, newest_first: bool) -> tuple[list[Job], bool]:
        """Some of an owner's jobs by age, and whether there are more."""
        sign, order = ("<", "DESC") if newest_first else (">", "ASC")
        number = after.number if after else (1 << 62 if newest_first else -1)
        where = f"WHERE owner = ? AND number {sign} ? ORDER BY number {order} LIMIT ?"
        found = list(self._jobs(where, owner, number, limit + 1))
        return found[:limit], len(found) > limit

    def count(self, status: Status) -> int:
        """How many jobs are in a state."""
        return int(self._run("SELECT count(*) FROM jobs WHERE status = ?", status).fetchone()[0])

    def count_open(self, owner: str) -> int:
        """An owner's jobs that wait or run."""
        where = "status IN ('queued', 'in_progress') AND owner = ?"
        return int(self._run(f"SELECT count(*) FROM jobs WHERE {where}", owner).fetchone()[0])

    def queue_position(self, job: Job) -> int:
        """How many jobs are taken up before this one, and 1."""
        where = "status = 'queued' AND number <= ?"
        return int(self._run(f"SELECT count(*) FROM jobs WHERE {where}", job.number).fetchone()[0])

    def claim(self) -> Job | None:
        """The job that has waited longest, from now on in progress."""
        for job in self._jobs("WHERE status = 'queued' ORDER BY number LIMIT 1"):
            if self._move(job.id, "queued", "in_progress", started=time.time()):
                return self.find(job.id)
        return None

    def complete(self, job_id: str, video: dict[str, Any]) -> bool:
        """Marks a job that is in progress as completed; False where it is not in progress any more."""
        size = sum(path.stat().st_size for path in self.place(job_id).glob("*"))
        return self._move(job_id, "in_progress", "completed", finished=time.time(), video=json.dumps(video), bytes=size)

    def fail(self, job_id: str, origin: Status, code: str, message: str) -> bool:
        """Marks a job as failed; False where it is not in that state any more."""
        return self._move(
            job_id, origin, "failed", finished=time.time(), error_code=code, error_message=" ".join(message.split())
        )

    def requeue(self, job_id: str) -> bool:
        """Puts a job that was not begun back into the queue, at its old place."""
        return self._move(job_id, "in_progress", "queued", started=None)

    def remove(self, job_id: str) -> None:
        """Deletes a job and its files."""
        self._run("DELETE FROM jobs WHERE id = ?", job_id)
        self.remove_files(job_id)

    def remove_files(self, job_id: str) -> None:
        """Deletes a job's folder."""
        shutil.rmtree(self.place(job_id), ignore_errors=True)

    def remove_outputs(self, job_id: str) -> None:
        """Deletes what was made of a job that did not end well; its inputs stay, to try again with."""
        folder = self.place(job_id)
        if self.find(job_id) is None or not folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
            return
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name not in INPUTS:
                path.unlink(missing_ok=True)

    def segments(self, job: Job) -> list[str]:
        """The videos of single segments that are there, in their order."""
        found = [path.name for path in self.place(job.id).glob("*_[0-9][0-9][0-9][0-9].mp4")]
        return sorted(name for name in found if not name.startswith("."))

    def recover(self) -> int:
        """After a start: settles what a killed server left, and returns how many jobs it had begun.

        A job whose last file is written is completed, any other that was begun has failed. Folders without a job go.
        """
        begun = list(self._jobs("WHERE status = 'in_progress'"))
        for job in begun:
            try:
                video = json.loads((self.place(job.id) / SIDECAR).read_text())["video"]
                self.complete(job.id, {**video, "fps": float(Fraction(video["fps"]))})
            except (OSError, ValueError, KeyError):
                self.fail(job.id, "in_progress", "interrupted", "the server was stopped while it made this video")
                self.remove_outputs(job.id)
        known = {row[0] for row in self._run("SELECT id FROM jobs")}
        for folder in (self.folder / "jobs").iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)
        return len(begun)

    def expire(self, keep_seconds: float, keep_bytes: float) -> list[Job]:
        """Deletes finished jobs that are too old, and the oldest while all take too many bytes; returns them."""
        gone = list(self._jobs("WHERE status IN ('completed', 'failed') AND finished < ?", time.time() - keep_seconds))
        excess = self.total_bytes() - sum(job.bytes for job in gone) - keep_bytes
        if excess > 0:
            for job in self._jobs("WHERE status = 'completed' ORDER BY finished"):
                if excess > 0 and job.id not in {one.id for one in gone}:
                    gone.append(job)
                    excess -= job.bytes
        for job in gone:
            self.remove(job.id)
        return gone

    def total_bytes(self) -> int:
        """Of the files of finished jobs."""
        return int(self._run("SELECT coalesce(sum(bytes), 0) FROM jobs").fetchone()[0])

    def _move(self, job_id: str, origin: Status, target: Status, **values: Any) -> bool:
        columns = "".join(f", {name} = ?" for name in values)
        statement = f"UPDATE jobs SET status = ?{columns} WHERE id = ? AND status = ?"
        return self._run(statement, target, *values.values(), job_id, origin).rowcount == 1

    def _jobs(self, where: str, *values: Any) -> Iterator[Job]:
        for row in self._run(f"SELECT * FROM jobs {where}", *values).fetchall():
            parsed = {name: json.loads(row[name]) for name in ("fields", "task", "warnings", "video") if row[name]}
            yield Job(**{**dict(row), **parsed})

    def _run(self, statement: str, *values: Any) -> sqlite3.Cursor:
        with self._naming_errors():
            return self._db.execute(statement, values)

    @contextlib.contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "") in ("SQLITE_FULL", "SQLITE_IOERR_WRITE"):
                raise disk_full(self._path, "the database cannot grow", "make room") from None
            raise OSError(f"{self._path}: {error}") from None
