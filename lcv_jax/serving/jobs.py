"""Jobs in a database, their files in folders. A job has one state, and every change says from which it comes.

Several servers may share a database and a folder. A server holds the jobs that it makes by a lease, which it renews; a
job whose lease has run out is settled by another server.
"""

import json
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from lcv_jax.serving.databases import Database, connect

Status = Literal["queued", "in_progress", "completed", "failed"]
SIDECAR = "video.json"
"""The last file that is written of a video: where it is, all others are."""
IMAGE, CLIP = INPUTS = "image.png", "clip.mkv"
"""What a client sent, decoded."""
VERSION = 2
STRAY_SECONDS = 3600.0
"""A folder without a job that is older belongs to a request that another server has not finished and never will."""
_TABLE = """
CREATE TABLE IF NOT EXISTS lcv_jobs (
    number {number},
    id TEXT UNIQUE NOT NULL,
    owner TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('queued', 'in_progress', 'completed', 'failed')),
    created DOUBLE PRECISION NOT NULL,
    started DOUBLE PRECISION,
    finished DOUBLE PRECISION,
    fields TEXT NOT NULL,
    task TEXT NOT NULL,
    warnings TEXT NOT NULL,
    video TEXT,
    bytes BIGINT NOT NULL DEFAULT 0,
    error_code TEXT,
    error_message TEXT,
    remixed_from TEXT,
    request_key TEXT,
    server TEXT,
    lease DOUBLE PRECISION,
    progress TEXT,
    UNIQUE (owner, request_key)
);
CREATE INDEX IF NOT EXISTS lcv_jobs_by_status ON lcv_jobs (status, number);
"""
_JSON = ("fields", "task", "warnings", "video", "progress")


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
    server: str | None
    """That makes it, or made it."""
    lease: float | None
    """Until when the server holds it, by the database's clock."""
    progress: dict[str, Any] | None
    """What its server said when it last renewed the lease."""


def new_id() -> str:
    """An id that cannot be guessed."""
    return f"video_{secrets.token_hex(16)}"


class JobStore:
    """The jobs of a server. One thread uses it.

    Args:
        folder: of a folder for each job, and of the SQLite file.
        database: URL of a PostgreSQL database. None: SQLite, for one server.
        lease_seconds: after this time without a sign of life, a server's jobs are settled by another.

    Raises:
        ValueError: a database of another version, or none.
        OSError: it cannot be read or written.
    """

    def __init__(self, folder: Path, database: str | None = None, *, lease_seconds: float = 20.0):
        self.folder, self.lease_seconds, self.server = folder, lease_seconds, secrets.token_hex(8)
        (folder / "jobs").mkdir(parents=True, exist_ok=True)
        self.database: Database = connect(database, folder)
        found = self.database.create("lcv_jobs", VERSION, _TABLE)
        if found != VERSION:
            self.close()
            raise ValueError(
                f"{self.database.name} is of version {found}, this program reads {VERSION}: give another "
                + ("--database" if database else "--folder")
            )
        self._run = self.database.run

    def close(self) -> None:
        """Closes the database."""
        self.database.close()

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
            "INSERT INTO lcv_jobs"
            " (id, owner, status, created, fields, task, warnings, remixed_from, request_key)"
            " VALUES (?, ?, 'queued', ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            *values,
        )
        job = self.find(job_id) or (self.find_by_key(owner, request_key) if request_key else None)
        assert job is not None
        return job

    def find(self, job_id: str) -> Job | None:
        """A job, whoever's."""
        return next(self._jobs("WHERE id = ?", job_id), None) if re.fullmatch("video_[0-9a-f]{32}", job_id) else None

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
        return self._total("count(*)", "WHERE status = ?", status)

    def count_open(self, owner: str) -> int:
        """An owner's jobs that wait or run."""
        return self._total("count(*)", "WHERE status IN ('queued', 'in_progress') AND owner = ?", owner)

    def queue_position(self, job: Job) -> int:
        """How many jobs are taken up before this one, and 1."""
        return self._total("count(*)", "WHERE status = 'queued' AND number <= ?", job.number)

    def waiting_since(self, seconds: float) -> int:
        """How many jobs wait that were created before a time."""
        return self._total("count(*)", "WHERE status = 'queued' AND created < ?", seconds)

    def claim(self) -> Job | None:
        """The job that has waited longest, from now on in progress and this server's; no other server gets it."""
        oldest = "SELECT number FROM lcv_jobs WHERE status = 'queued' ORDER BY number LIMIT 1 {skip_locked}"
        claimed = self._run(
            "UPDATE lcv_jobs SET status = 'in_progress', started = ?, server = ?, lease = {now} + ?"
            f" WHERE number = ({oldest}) AND status = 'queued' RETURNING *",
            time.time(), self.server, self.lease_seconds,
        )  # fmt: skip
        return next(map(_job, claimed.rows), None)

    def renew(self, job_id: str, progress: dict[str, Any] | None) -> bool:
        """Renews the lease of a job and stores how far it is; False where the job is not this server's any more."""
        statement = (
            "UPDATE lcv_jobs SET lease = {now} + ?, progress = ? WHERE id = ? AND status = 'in_progress' AND server = ?"
        )
        told = None if progress is None else json.dumps(progress)
        return self._run(statement, self.lease_seconds, told, job_id, self.server).changed == 1

    def complete(self, job_id: str, video: dict[str, Any]) -> bool:
        """Marks a job that is in progress as completed; False where it is not in progress any more."""
        size = sum(path.stat().st_size for path in self.place(job_id).glob("*"))
        return self._move(job_id, "in_progress", "completed", finished=time.time(), video=json.dumps(video), bytes=size)

    def fail(self, job_id: str, origin: Status, code: str, message: str) -> bool:
        """Marks a job as failed; False where it is not in that state any more."""
        return self._move(
            job_id,
            origin,
            "failed",
            finished=time.time(),
            error_code=code,
            error_message=" ".join(message.replace("\0", "").split()),
        )

    def remove(self, job_id: str) -> None:
        """Deletes a job and its files."""
        self._run("DELETE FROM lcv_jobs WHERE id = ?", job_id)
        self.remove_files(job_id)

    def remove_files(self, job_id: str) -> None:
        """Deletes a job's folder."""
        shutil.rmtree(self.place(job_id), ignore_errors=True)

    def remove_outputs(self, job_id: str) -> None:
        """Deletes what was made of a job that did not end well; its inputs stay, to try again with."""
        folder, job = self.place(job_id), self.find(job_id)
        if job is None or not folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
        elif job.status != "completed":
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif path.name not in INPUTS:
                    path.unlink(missing_ok=True)

    def segments(self, job: Job) -> list[str]:
        """The videos of single segments that are there, in their order."""
        found = [path.name for path in self.place(job.id).glob("*_[0-9][0-9][0-9][0-9].mp4")]
        return sorted(name for name in found if not name.startswith("."))

    def recover(self) -> None:
        """At a start: settles the jobs of servers that are gone, and removes folders that no job has."""
        self.settle_lost(all_are=not self.database.shared)
        youngest = time.time() - (STRAY_SECONDS if self.database.shared else 0.0)
        known = {row["id"] for row in self._run("SELECT id FROM lcv_jobs").rows}
        for folder in (self.folder / "jobs").iterdir():
            if folder.name not in known and folder.stat().st_mtime <= youngest:
                shutil.rmtree(folder, ignore_errors=True)

    def settle_lost(self, *, all_are: bool = False) -> int:
        """Settles jobs whose server has not renewed their lease, and returns how many there were.

        A job whose last file is written is completed, any other has failed.

        Args:
            all_are: take all jobs in progress for lost: no other server can be alive.
        """
        lost = self._run(
            "UPDATE lcv_jobs SET server = ?, lease = {now} + ?"
            " WHERE status = 'in_progress' AND (lease < {now} OR ?) RETURNING *",
            self.server, self.lease_seconds, all_are,
        )  # fmt: skip
        for job in map(_job, lost.rows):
            try:
                video = json.loads((self.place(job.id) / SIDECAR).read_text())["video"]
                self.complete(job.id, {**video, "fps": float(Fraction(video["fps"]))})
            except (OSError, ValueError, KeyError):
                self.fail(job.id, "in_progress", "interrupted", "the server was stopped while it made this video")
                self.remove_outputs(job.id)
        return len(lost.rows)

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
        return self._total("coalesce(sum(bytes), 0)")

    def _move(self, job_id: str, origin: Status, target: Status, **values: Any) -> bool:
        columns = "".join(f", {name} = ?" for name in values)
        statement = f"UPDATE lcv_jobs SET status = ?{columns} WHERE id = ? AND status = ?"
        return self._run(statement, target, *values.values(), job_id, origin).changed == 1

    def _total(self, what: str, where: str = "", *values: Any) -> int:
        return int(self._run(f"SELECT {what} AS total FROM lcv_jobs {where}", *values).rows[0]["total"])

    def _jobs(self, where: str, *values: Any) -> Iterator[Job]:
        return map(_job, self._run(f"SELECT * FROM lcv_jobs {where}", *values).rows)


def _job(row: dict[str, Any]) -> Job:
    parsed = {name: json.loads(row[name]) for name in _JSON if row[name]}
    return Job(**{**row, **parsed})
