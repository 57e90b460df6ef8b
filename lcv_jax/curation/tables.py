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


def distribution_lines(library: Library, thin: float) -> list[str]:
    """A line for each cluster of captions: clips, shares before and after weights, density; thin ones are marked.

    Args:
        library: in which the stage distribution has run.
        thin: clusters of fewer clips than this part of an even share are thin.

    Raises:
        ValueError: the stage has not run.
    """
    if "distribution" not in library.stages():
        raise ValueError(f"{library.folder}: no distribution of captions yet: run the stage distribution")
    found = query(
        library,
        "SELECT cluster_name, count(*), count(*) / sum(count(*)) OVER (), sum(weight) / sum(sum(weight)) OVER (), "
        "avg(density), count(*) OVER () FROM clips WHERE cluster IS NOT NULL "
        "GROUP BY cluster, cluster_name ORDER BY cluster",
    )
    lines, scarce = [f"{'clips':>9}{'share':>9}{'weighted':>10}{'density':>10}  cluster"], []
    for name, count, share, weighted, density, number in found:
        is_thin = share < thin / number
        scarce += [name] if is_thin else []
        lines.append(f"{count:9}{share:9.2%}{weighted:10.2%}{density:10.5f}  {name}{' (thin)' if is_thin else ''}")
    if scarce:
        lines.append(f"thin, collect more of: {'; '.join(scarce)}")
    return lines


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
