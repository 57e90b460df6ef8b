"""What data are, so that a change between two starts is noticed and named: rows, and the content of their files.

A row is a JSON object with an `id`: the captions, times and numbers of an entry, and the SHA-256 of its file. All
rows are kept in one compressed file beside what was made of them. A file is hashed once; later its size and times
(mtime and ctime, which every write and every replacement changes) tell whether it has to be hashed again. They decide
nothing else: a file that was copied or touched is the same as long as its content is.
"""

import dataclasses
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lcv_jax.data.manifest import Entry
from lcv_jax.own_files import file_sha256, write_whole
from lcv_jax.user_files import reading

Row = dict[str, Any]

STAT = "stat"
"""The part of a row that says whether a file has to be hashed again, and is never compared."""
SHOWN = 4
"""Changes that a message names; the others are counted."""
SHOWN_TEXT = 100


def manifest_row(entry: Entry) -> Row:
    """What an entry says, but for the place of its file."""
    row = dataclasses.asdict(entry)
    del row["path"]
    row |= {"captions": list(entry.captions), "numbers": dict(entry.numbers)}
    return {name: value for name, value in row.items() if value is not None}


def file_facts(path: Path, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The SHA-256 of a file, and what tells whether it is still valid; None for both if it cannot be read.

    Args:
        path: the file.
        known: the facts from before; the file is read only if they may have changed.
    """
    try:
        stat = path.stat()
        facts = {STAT: [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]}
        if known and known.get(STAT) == facts[STAT]:
            return {STAT: facts[STAT], "sha256": known["sha256"]}
        return facts | {"sha256": file_sha256(path)}
    except OSError:
        return {STAT: None, "sha256": None}


def file_rows(entries: Sequence[Entry], known: Mapping[str, Row], threads: int = 8) -> list[Row]:
    """The rows of a manifest's entries with the content of their files, which is hashed where it is not known."""
    with ThreadPoolExecutor(threads) as pool:
        facts = pool.map(lambda entry: file_facts(entry.path, known.get(entry.id)), entries)
        return [manifest_row(entry) | one for entry, one in zip(entries, facts, strict=True)]


def read_rows(path: Path) -> list[Row]:
    """Rows that `write_rows` wrote.

    Raises:
        UnreadableError: the file is damaged.
    """
    with reading(path), gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
        return [row | {"id": row["id"]} for row in rows]  # a row without one is damage


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Rows as compressed JSON lines, whole or not at all."""
    content = io.BytesIO()
    with gzip.GzipFile(fileobj=content, mode="wb", compresslevel=1, mtime=0) as file:
        for row in rows:
            file.write(json.dumps(row, sort_keys=True).encode() + b"\n")
    write_whole(path, content.getvalue())


def without_stat(row: Row) -> Row:
    """A row without what is never compared."""
    return {name: value for name, value in row.items() if name != STAT}


def check_rows(path: Path, make: Callable[[Mapping[str, Row]], Sequence[Row]], what: str) -> list[Row]:
    """Compares rows with those that were written at the first start.

    Args:
        path: where they are kept.
        make: the rows of now, from those of the start by their ids: what they say of files need not be found out again.
        what: what the message calls the thing that was begun with other rows.

    Returns:
        Rows to write with `write_rows`: at first, and where a file was touched or moved; otherwise none.

    Raises:
        ValueError: they differ; rows, fields and their values are named.
    """
    before = read_rows(path) if path.is_file() else None
    rows = json.loads(json.dumps(make({row["id"]: row for row in before or ()})))
    if before is not None and (found := list(changes(before, rows))):
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        told = "; ".join(found[:SHOWN])
        raise ValueError(f"{what} was begun with other data: {told}{more}. Set them back, or choose another folder")
    return [] if before == rows else rows


def changes(before: Sequence[Row], now: Sequence[Row]) -> Iterator[str]:
    """What differs between two sets of rows, a sentence each."""
    old, new = ({row["id"]: row for row in rows} for rows in (before, now))
    for identity in (one for one in old if one in new):
        yield from _differing(identity, old[identity], new[identity])
    yield from (f"{identity} is missing" for identity in old if identity not in new)
    yield from (f"{identity} is new" for identity in new if identity not in old)
    if list(old) != list(new) and old.keys() == new.keys():
        yield "the rows are in another order"


def _differing(identity: str, old: Row, new: Row) -> Iterator[str]:
    for name in sorted({*old, *new} - {STAT}):
        was, is_now = old.get(name), new.get(name)
        if was == is_now:
            continue
        if name != "sha256":
            yield f"{name} of {identity} was {_short(was)}, is {_short(is_now)}"
        elif is_now is None:
            yield f"the file of {identity} cannot be read any more"
        else:
            yield f"the file of {identity} has other content (SHA-256 was {str(was)[:12]}, is {is_now[:12]})"


def _short(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_TEXT else f"{text[: SHOWN_TEXT - 3]}..."
