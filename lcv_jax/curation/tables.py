"""What people read of a library: progress of stages, quarantined rows, queries."""

from collections.abc import Iterator
from typing import Any

from lcv_jax.curation.library import Library
from lcv_jax.extras import import_extra


def status_lines(library: Library) -> list[str]:
    """A line for each stage, with its rows and their mean time."""
    connection = library.connect()
    lines = [f"{'stage':14}{'done':>9}{'quarantined':>13}{'to do':>9}{'waiting':>9}{'s a row':>10}"]
    for name in library.stages():
        done, faults, ready, rows, seconds = connection.execute(
            f'SELECT count(*) FILTER ("_done_{name}"), count("_reason_{name}"), count(*) FILTER ("_ready_{name}"), '
            f'count(*), avg("_seconds_{name}") FROM {library.of(name)}_state'
        ).fetchone()
        spent = "" if seconds is None else f"{seconds:.3f}"
        lines.append(f"{name:14}{done:9}{faults:13}{ready - done - faults:9}{rows - ready:9}{spent:>10}")
    return lines


def quarantine_lines(library: Library, shown: int) -> list[str]:
    """The first quarantined rows with their reasons, and how many more there are."""
    rows = query(library, "SELECT stage, coalesce(clip, path, source), reason FROM quarantine ORDER BY ALL")
    found = [f"{stage} quarantined {row}: {reason}" for stage, row, reason in rows]
    more = [f"{len(found) - shown} more are quarantined: see the table quarantine"] if len(found) > shown else []
    return found[:shown] + more


def query(library: Library, sql: str) -> Iterator[tuple[Any, ...]]:
    """Rows of a query, the names of its columns first where it is a user's.

    Raises:
        ValueError: DuckDB does not understand it.
    """
    duckdb = import_extra("duckdb", "curate", "a library of curation needs")
    try:
        result = library.connect().execute(sql)
        while rows := result.fetchmany(1024):
            yield from rows
    except duckdb.Error as error:
        raise ValueError(f"query: {' '.join(str(error).split())}") from None
