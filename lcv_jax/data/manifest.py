"""Manifests: which clips there are, and what is said about them. JSONL, CSV or Parquet, one clip or image a line.

Columns: `path` (relative to the manifest's folder), `caption` or `captions` (a list, of which each sample draws one),
and, if wanted, `id` (otherwise the path), `start` and `end` in seconds, `caption_start`, and what saves opening every
file: `width`, `height`, `num_frames` and `fps`. Other columns with numbers are kept, so that one can serve as weights;
whatever else there is belongs to other tools and is ignored.
"""

import csv
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lcv_jax.bounds import Count, NonNegative, Positive, check_value
from lcv_jax.data.pictures import is_animation_file
from lcv_jax.user_files import parse_json, read_lines, reading

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".gif", ".avif"})
_ANIMATION_SUFFIXES = frozenset({".png", ".webp", ".gif", ".avif"})
_SHOWN_PROBLEMS = 5
_SIMILAR = {
    "path": {"video", "image", "file", "filename", "file_name", "video_path", "image_path", "media_path"},
    "caption": {"prompt", "text", "description", "captions_text", "title"},
}
"""Names that other tools give the columns, in lower case."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One clip or image of a manifest."""

    id: str
    path: Path
    captions: tuple[str, ...] = ()
    start: float = 0.0
    """Seconds."""
    end: float | None = None
    """Seconds; None: to the end of the file."""
    caption_start: float | None = None
    """Seconds after `start` from which on captions describe the clip; before that something else happens. None: all."""
    height: int | None = None
    """Of the frames as they are seen. The four below are None where the manifest does not say."""
    width: int | None = None
    num_frames: int | None = None
    """Of the file, at its own rate."""
    fps: float | None = None
    """The file's own."""
    prompt: str | None = None
    """What a captioner is asked about it, where its training says so."""
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """All other columns that hold a number."""

    @functools.cached_property
    def is_image(self) -> bool:
        """Whether it has a single picture: by its suffix and, for formats that can hold animations, its header."""
        suffix = self.path.suffix.lower()
        if suffix in _ANIMATION_SUFFIXES:
            return not is_animation_file(self.path)
        return suffix in IMAGE_SUFFIXES


def read_manifest(path: Path, *, captions: bool = True) -> list[Entry]:
    """The entries of a manifest.

    Args:
        path: its suffix says its kind: .jsonl, .csv or .parquet.
        captions: whether every line needs one.

    Raises:
        OSError: there is no such file.
        ValueError: it cannot be read, or has lines that are wrong (they are named), or none.
        ImportError: Parquet needs pyarrow, which is not installed.
    """
    entries, problems = sort_lines(path, functools.partial(entry_of, captions=captions))
    if problems:
        told = [f"{place}: {reason}" for place, reason in problems.items()]
        more = f"; and {len(told) - _SHOWN_PROBLEMS} more" if len(told) > _SHOWN_PROBLEMS else ""
        raise ValueError(f"{path}: {'; '.join(told[:_SHOWN_PROBLEMS])}{more}")
    if not entries:
        raise ValueError(f"{path}: holds no clips")
    return entries


def sort_lines(path: Path, read: Callable[[dict[str, Any], Path], Entry]) -> tuple[list[Entry], dict[str, str]]:
    """The entries of a manifest, and the lines that are none, with reasons.

    Args:
        path: its suffix says its kind: .jsonl, .csv or .parquet.
        read: an entry of a line and the manifest's folder; raises ValueError for what is none.

    Raises:
        OSError: there is no such file.
        ValueError: it cannot be read.
        ImportError: Parquet needs pyarrow, which is not installed.
    """
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder; a manifest is a .jsonl, .csv or .parquet that lists clips, such as a .jsonl with a "
            'line {"path": "clip.mp4", "caption": "a cat jumps"} for each'
        )
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: a manifest is .jsonl, .csv or .parquet, got {path.suffix or 'no suffix'!r}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such manifest")
    entries: list[Entry] = []
    problems: dict[str, str] = {}
    places: dict[str, str] = {}
    for place, row in readers[path.suffix.lower()](path):
        try:
            entry = read(row, path.parent)
            if entry.id in places:
                raise ValueError(f"the id {entry.id!r} is that of {places[entry.id]} too; ids must differ")
        except ValueError as error:
            problems[place] = str(error)
            continue
        places[entry.id] = place
        entries.append(entry)
    return entries, problems


def read_captions(path: Path) -> list[str]:
    """The captions of a text file, one a line, or of a manifest, whose clips need not be there; each once, in order.

    Raises:
        OSError: there is no such file.
        ValueError: it cannot be read, or has none.
    """
    if path.suffix.lower() == ".txt":
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file of captions")
        found = [line.strip() for line in read_lines(path)]
    else:
        found = [caption.strip() for entry in read_manifest(path) for caption in entry.captions]
    captions = list(dict.fromkeys(caption for caption in found if caption))
    if not captions:
        raise ValueError(f"{path}: holds no captions")
    return captions


def _read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            row = parse_json(line, f"{path}, line {number}")
            yield f"line {number}", {name: value for name, value in row.items() if value is not None}


def _read_csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """An empty cell is one that is not given; what can be a number is one, but for texts."""
    reader = csv.DictReader(read_lines(path), strict=True)
    try:
        _check_header(path, reader.fieldnames or ())
        for row in reader:
            place = f"line {reader.line_num}"
            if None in row or None in row.values():
                raise ValueError(
                    f"{path}, {place}: expected {len(reader.fieldnames or ())} cells, as in the first line; "
                    'quote cells that hold a comma: "a, b"'
                )
            yield place, {name: _number_if_one(name, cell) for name, cell in row.items() if cell.strip()}
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not CSV ({error})") from None


def _check_header(path: Path, columns: Sequence[str]) -> None:
    """Raises ValueError for a first line that is not separated by commas, or names no column `path`."""
    for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")):
        if len(columns) == 1 and separator in columns[0]:
            raise ValueError(f"{path}, line 1: cells are separated by {name}, expected commas: save the file as CSV")
    if columns and "path" not in columns:
        raise ValueError(f"{path}, line 1: {_no_column('path', columns)}")


def _no_column(wanted: str, columns: Iterable[str]) -> str:
    """What to do about a column that is missing, from those that there are."""
    have = [str(column) for column in columns]
    similar = [column for column in have if column.lower() in _SIMILAR[wanted]]
    advice = f"; rename {similar[0]} to {wanted}" if similar else ""
    return f"{wanted} is missing; the columns are {', '.join(have) or 'none'}{advice}"


def _number_if_one(column: str, cell: str) -> Any:
    if column in ("id", "path", "caption"):
        return cell
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            pass
    return cell


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('manifests in Parquet need the package pyarrow: pip install "lcv_jax[train]"') from error
    with reading(path, "expected a Parquet file"):
        number = 0
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", {name: value for name, value in row.items() if value is not None}


def entry_of(row: dict[str, Any], folder: Path, *, captions: bool = True) -> Entry:
    """The entry of a line.

    Args:
        row: what the line says.
        folder: that its path is relative to.
        captions: whether it needs one.

    Raises:
        ValueError: it is none.
    """
    name = _text(row, "path")
    if name is None:
        raise ValueError(_no_column("path", row))
    if "\0" in name:
        raise ValueError(f"path must be a file name, got {name!r}")
    texts = _captions(row)
    if captions and not texts:
        raise ValueError(_no_column("caption", row))
    identity = row.get("id", name)
    if isinstance(identity, bool) or not isinstance(identity, str | int) or identity == "":
        raise ValueError(f"id must be a text or a whole number, got {identity!r}")
    start, end = _number(row, "start", NonNegative), _number(row, "end", Positive)
    if end is not None and end <= (start or 0):
        raise ValueError(f"end must lie after start, got start = {start or 0} and end = {end}")
    known = {field.name for field in dataclasses.fields(Entry)} | {"caption"}
    return Entry(
        id=str(identity),
        path=folder / name,
        captions=texts,
        start=start or 0.0,
        end=end,
        caption_start=_number(row, "caption_start", Positive),
        height=_whole(row, "height"),
        width=_whole(row, "width"),
        num_frames=_whole(row, "num_frames"),
        fps=_number(row, "fps", Positive),
        numbers={key: _as_float(value) for key, value in row.items() if key not in known and _is_number(value)},
    )


def _captions(row: dict[str, Any]) -> tuple[str, ...]:
    if "caption" in row and "captions" in row:
        raise ValueError("give caption or captions, not both")
    if "captions" in row:
        captions = row["captions"]
        if not isinstance(captions, list) or not captions or not all(isinstance(each, str) for each in captions):
            raise ValueError(f"captions must be a list of texts, got {captions!r}")
    else:
        caption = _text(row, "caption")
        captions = [] if caption is None else [caption]
    if any(not caption.strip() for caption in captions):
        raise ValueError("a caption is empty")
    return tuple(captions)


def _text(row: dict[str, Any], column: str) -> str | None:
    value = row.get(column)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{column} must be a text, got {value!r}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_float(value: float | int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _number(row: dict[str, Any], column: str, accepted: Any) -> float | None:
    value = row.get(column)
    if value is None:
        return None
    check_value(column, accepted, value)
    return float(value)


def _whole(row: dict[str, Any], column: str) -> int | None:
    value = _number(row, column, Positive)
    if value is None:
        return None
    check_value(column, Count, int(value) if value == int(value) else value)
    return int(value)
