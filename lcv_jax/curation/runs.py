"""Runs: the files of a folder become sources of a library, and stages run over what they have not done yet."""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lcv_jax.curation.engines import Engine
from lcv_jax.curation.library import Library
from lcv_jax.curation.stage import GroupStage, Stage
from lcv_jax.data.manifest import read_manifest
from lcv_jax.user_files import reason

VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".wmv", ".flv", ".3gp",
    ".ogv", ".mxf", ".vob", ".gif",
})  # fmt: skip
_ID = re.compile(r"\[([A-Za-z0-9_-]{6,})\]$")
"""A source's id at the end of a file name, as yt-dlp writes it: `title [id].mp4`."""
Tell = Callable[[str, int, int, int], None]
"""Told of progress: the stage's name, rows done, all rows, faults."""


def list_sources(library: Library, place: Path) -> int:
    """Adds the videos of a folder, or of a list (.jsonl, .csv, .parquet with `path` and `id`), to a library.

    A file is read only if it is new or its size or times changed. Returns the number of files.

    Raises:
        OSError: there is no such folder or list.
        ValueError: it has no videos.
    """
    known = {}
    connection = library.connect()
    for path, stat, told in connection.execute("SELECT path, stat, _reason FROM listing").fetchall():
        known[library.folder / path] = (stat, told)
    count = 0
    for path, source_id in _files(place):
        count += 1
        shown = Path(os.fsencode(path).decode(errors="replace"))
        row: dict[str, Any] = {"path": shown, "source_id": source_id, "_at": time.time_ns()}
        try:
            if shown != path:
                raise OSError(f"{shown}: its name is not UTF-8, rename it")
            status = os.stat(path)
            stat = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
            if known.get(path) == (stat, None):
                continue
            with path.open("rb") as file:
                md5 = hashlib.file_digest(file, "md5").hexdigest()
            library.listing.append([row | {"source": md5, "bytes": status.st_size, "stat": stat}])
        except OSError as error:
            if shown not in known or known[shown][1] != reason(error):
                library.listing.append([row | {"_reason": reason(error)}])
    library.listing.close()
    if not count:
        raise ValueError(
            f"{place}: no videos here; files are found by their suffix ({' '.join(sorted(VIDEO_SUFFIXES))})"
        )
    return count


def _files(place: Path) -> Iterator[tuple[Path, str | None]]:
    if place.is_file():
        for entry in read_manifest(place, captions=False):
            yield entry.path.absolute(), entry.id
        return
    if not place.is_dir():
        raise FileNotFoundError(f"{place}: no such folder of videos")
    for path in sorted(place.absolute().rglob("*")):
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir():
            found = _ID.search(path.stem)
            yield path, found[1] if found else None


def run_stages(
    library: Library,
    stages: Sequence[Stage | GroupStage],
    engine: Engine,
    *,
    retry: bool = False,
    tell: Tell = lambda *_: None,
) -> None:
    """Runs stages one after the other, each over the rows that it has not done yet.

    Args:
        library: within `writing`.
        stages: in an order in which each reads what those before it wrote.
        engine: where they run.
        retry: try quarantined rows again.
        tell: is told of progress.
    """
    for stage in stages:
        library.adopt(stage)
        if isinstance(stage, GroupStage):
            count, faults = library.run_group(stage, retry=retry)
            tell(stage.name, count, count, faults)
            continue
        count, rows = library.pending(stage, retry=retry)
        with library.results(stage) as results:
            for row, outcome in engine.run(stage, rows):
                results.add(outcome, row["_input"])
                tell(stage.name, results.done, count, results.faults)
