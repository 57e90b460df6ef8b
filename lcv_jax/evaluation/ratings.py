"""Ratings in SQLite: written at once, never overwritten; and which item a rater sees next.

A rating is one row for each answer. Where a rater answers again, the last row counts and the others stay. The database
survives a killed server: every answer is a transaction that is on disk before the rater sees it accepted.
"""

import contextlib
import dataclasses
import hashlib
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from lcv_jax.bounds import shown
from lcv_jax.evaluation.studies import Rater, Study, StudyItem
from lcv_jax.own_files import disk_full

CLAIM_SECONDS = 900.0
"""For so long an item counts as being rated by whom it was shown to."""
CHECK_EVERY = 10
"""Of so many items that a rater sees, one is an attention check, while there are any."""
_TABLES = """
CREATE TABLE IF NOT EXISTS study (digest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY, item TEXT NOT NULL, rater TEXT NOT NULL, dimension TEXT NOT NULL, score INTEGER NOT NULL,
    time REAL NOT NULL, seconds REAL);
CREATE INDEX IF NOT EXISTS answers_of_item ON answers (item, rater, dimension);
CREATE TABLE IF NOT EXISTS claims (item TEXT NOT NULL, rater TEXT NOT NULL, time REAL NOT NULL, PRIMARY KEY (rater));
CREATE TABLE IF NOT EXISTS skipped (item TEXT NOT NULL, rater TEXT NOT NULL, PRIMARY KEY (item, rater));
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """A score that counts."""

    item: str
    rater: str
    dimension: str
    score: int
    first_score: int
    """What they answered at first; after a training item raters learn what is right."""
    time: float
    seconds: float | None
    """From when the item was shown."""


@dataclasses.dataclass(frozen=True)
class Ratings:
    """The database of a study.

    Raises:
        ValueError: study.json was changed after ratings began.
    """

    study: Study

    def __post_init__(self) -> None:
        with self._transaction() as database:
            for statement in _TABLES.split(";"):
                database.execute(statement)
            before = database.execute("SELECT digest FROM study").fetchone()
            if before is None:
                database.execute("INSERT INTO study VALUES (?)", (self.study.digest,))
            elif before[0] != self.study.digest:
                raise ValueError(
                    f"{self.study.folder}/study.json was changed after ratings began: restore it, or make a new study"
                )

    @property
    def path(self) -> Path:
        return self.study.folder / "ratings.sqlite"

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                if database.in_transaction:  # a full disk has ended it already
                    database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise ValueError(f"{self.path} is damaged ({error}): restore it, or move it away") from None
            if code != sqlite3.SQLITE_FULL:
                raise
            raise disk_full(self.path, "the answer is not stored") from None
        finally:
            database.close()

    def add(self, item: StudyItem, rater: Rater, dimension: str, score: int) -> bool:
        """Stores an answer; tells whether the item has all of this rater's answers now.

        Raises:
            ValueError: a dimension that is not asked of this item, a score out of range, an item that is not this
                rater's to rate, that they have not been shown, or whose clip is gone.
        """
        scores = self.study.scores()
        if dimension not in item.dimensions:
            raise ValueError(f"dimension must be one of {', '.join(item.dimensions)}, got {dimension!r}")
        if not isinstance(score, int) or isinstance(score, bool) or score not in scores:
            raise ValueError(f"score must be a whole number in {scores[0]}..{scores[-1]}, got {shown(score)}")
        if not may_rate(rater, item):
            raise ValueError(f"{rater.name} may not rate items of category {', '.join(item.categories) or 'none'}")
        if self.study.missing_file(item):
            raise ValueError("this item cannot be rated: its clip is gone")
        now = time.time()
        with self._transaction() as database:
            claim = database.execute("SELECT time FROM claims WHERE rater = ? AND item = ?", (rater.name, item.id))
            row = claim.fetchone()
            if row is None and not _scores_of(database, item.id, rater.name):
                raise ValueError("this item has not been shown to you: reload the page")
            database.execute(
                "INSERT INTO answers (item, rater, dimension, score, time, seconds) VALUES (?, ?, ?, ?, ?, ?)",
                (item.id, rater.name, dimension, score, now, now - row[0] if row else None),
            )
            complete = len(_scores_of(database, item.id, rater.name)) == len(item.dimensions)
            if complete:
                database.execute("DELETE FROM claims WHERE rater = ? AND item = ?", (rater.name, item.id))
            return complete

    def scores_of(self, item: StudyItem, rater: Rater) -> dict[str, int]:
        """A rater's answers to an item so far."""
        with self._transaction() as database:
            return _scores_of(database, item.id, rater.name)

    def skip(self, item: StudyItem, rater: Rater) -> None:
        """Remembers that a rater cannot play an item, which they are not shown again."""
        with self._transaction() as database:
            database.execute("INSERT OR IGNORE INTO skipped VALUES (?, ?)", (item.id, rater.name))
            database.execute("DELETE FROM claims WHERE rater = ? AND item = ?", (rater.name, item.id))

    def skipped(self) -> list[tuple[StudyItem, str]]:
        """Items that raters could not play, and the raters' names."""
        with self._transaction() as database:
            rows = database.execute("SELECT item, rater FROM skipped ORDER BY rowid").fetchall()
        return [(self.study.by_id[item], rater) for item, rater in rows]

    def _open_to(self, database: sqlite3.Connection, rater: Rater) -> list[StudyItem]:
        """Items that a rater can rate, or has."""
        skipped = {row[0] for row in database.execute("SELECT item FROM skipped WHERE rater = ?", (rater.name,))}
        return [
            item
            for item in self.study.items
            if may_rate(rater, item) and item.id not in skipped and not self.study.missing_file(item)
        ]

    def next(self, rater: Rater) -> StudyItem | None:
        """The item that a rater is to see: one they have begun, then training, then ratings with checks among them.

        Of the others those come first that have the fewest raters; ties are in an order of the rater's own. None: there
        is nothing left to rate.
        """
        with self._transaction() as database:
            answered = _answered(database, self.study)
            mine = {item for item, raters in answered.items() if rater.name in raters}
            todo = [item for item in self._open_to(database, rater) if item.id not in mine]
            now = time.time()
            claimed = database.execute("SELECT item FROM claims WHERE rater = ?", (rater.name,)).fetchone()
            chosen = next((item for item in todo if claimed and item.id == claimed[0]), None)
            chosen = chosen or self._choose(database, todo, answered, mine, rater, now)
            if chosen is not None and (claimed is None or claimed[0] != chosen.id):
                database.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", (chosen.id, rater.name, now))
            return chosen

    def _choose(
        self,
        database: sqlite3.Connection,
        todo: list[StudyItem],
        answered: dict[str, dict[str, dict[str, int]]],
        mine: set[str],
        rater: Rater,
        now: float,
    ) -> StudyItem | None:
        training = [item for item in todo if item.role == "training"]
        if training:
            return training[0]
        roles = {item.id: item.role for item in self.study.items}
        num_rated, num_checks = (sum(roles[item] == role for item in mine) for role in ("rating", "check"))
        checks = [item for item in todo if item.role == "check"]
        offset = 1 + random_place(self.study.seed, rater.name, f"check {num_checks}") % (CHECK_EVERY - 1)
        if checks and num_rated >= num_checks * CHECK_EVERY + offset:
            return checks[0]
        claims = database.execute(
            "SELECT item, COUNT(*) FROM claims WHERE time > ? AND rater != ? GROUP BY item",
            (now - CLAIM_SECONDS, rater.name),
        )
        others = dict(claims.fetchall())
        busy = {item.id: len(answered.get(item.id, {})) + others.get(item.id, 0) for item in todo}
        left = [
            item
            for item in todo
            if item.role == "rating" and busy[item.id] < self.num_needed(answered.get(item.id, {}).values())
        ]
        return min(left, key=lambda i: (busy[i.id], random_place(self.study.seed, rater.name, i.id)), default=None)

    def num_needed(self, scores: Iterable[dict[str, int]]) -> int:
        """Raters that an item needs: more where two of the first ones differ much in a dimension."""
        by_dimension: dict[str, list[int]] = {}
        for of_rater in scores:
            for dimension, score in of_rater.items():
                by_dimension.setdefault(dimension, []).append(score)
        differ = any(max(given) - min(given) >= self.study.disagreement for given in by_dimension.values())
        return self.study.num_raters + (self.study.extra_raters if differ else 0)

    def previous(self, rater: Rater, before: str) -> StudyItem | None:
        """The item that a rater answered before another one; the first again at the beginning."""
        with self._transaction() as database:
            rows = database.execute(
                "SELECT item FROM answers WHERE rater = ? GROUP BY item ORDER BY MIN(id)", (rater.name,)
            ).fetchall()
        history = [item for (item,) in rows]
        place = history.index(before) if before in history else len(history)
        return self.study.by_id[history[max(place - 1, 0)]] if history else None

    def progress(self, rater: Rater) -> tuple[int, int]:
        """Items that a rater has answered, and at most will."""
        with self._transaction() as database:
            answered = _answered(database, self.study)
            items = self._open_to(database, rater)
        mine = {item for item, raters in answered.items() if rater.name in raters}
        left = 0
        for item in items:
            scores = answered.get(item.id, {}).values()
            left += item.id not in mine and (item.role != "rating" or len(scores) < self.num_needed(scores))
        return len(mine), len(mine) + left

    def answers(self) -> list[Answer]:
        """The answers that count, of items that a rater has answered completely or in part."""
        with self._transaction() as database:
            rows = database.execute(
                "SELECT last.item, last.rater, last.dimension, last.score, first.score, last.time, last.seconds FROM "
                "(SELECT MIN(id) AS first, MAX(id) AS last FROM answers GROUP BY item, rater, dimension) AS given "
                "JOIN answers AS last ON last.id = given.last JOIN answers AS first ON first.id = given.first "
                "ORDER BY last.id"
            ).fetchall()
        names = [field.name for field in dataclasses.fields(Answer)]
        return [Answer(**dict(zip(names, row, strict=True))) for row in rows]


def may_rate(rater: Rater, item: StudyItem) -> bool:
    """Whether an item is for a rater; known answers are for everybody."""
    return item.role != "rating" or not rater.categories or bool({*rater.categories} & {*item.categories})


def _scores_of(database: sqlite3.Connection, item: str, rater: str) -> dict[str, int]:
    rows = database.execute(
        "SELECT dimension, score FROM answers WHERE item = ? AND rater = ? ORDER BY id", (item, rater)
    )
    return dict(rows.fetchall())


def _answered(database: sqlite3.Connection, study: Study) -> dict[str, dict[str, dict[str, int]]]:
    """Complete ratings by item and rater."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    rows = database.execute("SELECT item, rater, dimension, score FROM answers ORDER BY id")
    for item, rater, dimension, score in rows:
        found.setdefault(item, {}).setdefault(rater, {})[dimension] = score
    wanted = {item.id: len(item.dimensions) for item in study.items}
    return {
        item: {rater: scores for rater, scores in raters.items() if len(scores) == wanted.get(item, 0)}
        for item, raters in found.items()
    }


def random_place(seed: int, rater: str, item: str) -> int:
    """A random place that is the same every time."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{rater}/{item}".encode()).digest()[:8], "big")
