"""Captions of a manifest's clips as a manifest that training reads, written clip by clip, so that a run can resume."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lcv_jax.captioning.pairs import frames_of
from lcv_jax.captioning.prompts import Views
from lcv_jax.data.manifest import Entry
from lcv_jax.own_files import differences, naming_write_errors, write_json
from lcv_jax.user_files import read_json

Caption = Callable[[Sequence[np.ndarray], Sequence[float]], Sequence[str]]
"""Texts of videos T H W 3 and their frame rates."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is."""

    done: int
    total: int
    faults: tuple[str, ...]
    """Of clips that cannot be read, a line each."""


def write_captions(
    entries: Sequence[Entry],
    out: Path,
    caption: Caption,
    settings: Mapping[str, Any],
    views: Views,
    at_once: int,
) -> Iterator[Progress]:
    """Appends a line for each clip that `out` lacks.

    Args:
        entries: of the manifest.
        out: a JSONL manifest; killed at any time, the next run keeps its whole lines.
        caption: writes the texts.
        settings: what the texts depend on; kept beside `out`, and compared when a run resumes.
        views: which frames are shown.
        at_once: clips of one call.

    Raises:
        ValueError: `out` was begun with other settings.
        OSError: it cannot be written.
    """
    _check_settings(out, settings)
    done = _written(out)
    left = [entry for entry in entries if entry.id not in done]
    count, faults = len(entries) - len(left), []
    yield Progress(done=count, total=len(entries), faults=())
    for start in range(0, len(left), at_once):
        readable = []
        for entry in left[start : start + at_once]:
            try:
                readable.append((entry, frames_of(entry, views)))
            except (OSError, ValueError) as error:
                faults.append(f"{entry.id}: {error}")
        # These frames are chosen already: at the rate that is asked for, all of them are taken.
        texts = caption([frames for _, frames in readable], [views.fps] * len(readable)) if readable else []
        lines = [json.dumps(_row(entry, text, out), ensure_ascii=False) for (entry, _), text in zip(readable, texts)]  # noqa: B905
        with naming_write_errors(out), open(out, "a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        count += len(readable)
        yield Progress(done=count, total=len(entries), faults=tuple(faults))


def _row(entry: Entry, text: str, out: Path) -> dict[str, Any]:
    path, folder = entry.path.resolve(), out.resolve().parent
    place = path.relative_to(folder) if path.is_relative_to(folder) else path
    row: dict[str, Any] = {"id": entry.id, "path": str(place), "caption": text}
    span = {"start": entry.start or None, "end": entry.end}
    about = {name: getattr(entry, name) for name in ("width", "height", "num_frames", "fps")}
    return row | {name: value for name, value in (span | about).items() if value is not None} | dict(entry.numbers)


def _check_settings(out: Path, settings: Mapping[str, Any]) -> None:
    path = out.with_name(f"{out.name}.settings.json")
    if out.exists() and path.is_file() and (differing := differences(read_json(path), settings)):
        raise ValueError(f"{out} was begun otherwise: {differing}. Give the same, or another file")
    with naming_write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, dict(settings))


def _written(out: Path) -> set[str]:
    """The ids that are done; what a killed run left of a line is cut off."""
    if not out.exists():
        return set()
    with open(out, "r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
    return {json.loads(line)["id"] for line in content[:whole].splitlines() if line.strip()}
