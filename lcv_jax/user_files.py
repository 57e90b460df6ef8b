"""Reading what users wrote: text, JSON, Python configs, and whatever a parser makes of a file.

A parser raises anything on damaged data: KeyError, RecursionError, its own exceptions. Within `reading(path)` all of
them are a fault of the file, and become a ValueError that names it; outside they are bugs and keep their traceback.
"""

import contextlib
import importlib.util
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
"""A checkout has the project's configs/ there."""


class UnreadableError(ValueError):
    """A file that cannot be read, already named with the reason."""


@contextlib.contextmanager
def reading(path: str | Path, advice: str = "") -> Iterator[None]:
    """Within, an exception of whatever kind becomes an UnreadableError that names the file and the cause.

    Keep the body small: nothing but the parsing of that file.

    Args:
        path: the file or folder; it may have a place in it appended.
        advice: what to do about it, the end of the message.

    Raises:
        UnreadableError: the contents are not as expected.
        OSError: the file cannot be opened, or the disk fails.
        ImportError: a package that reads such files is not installed.
    """
    try:
        yield
    except (UnreadableError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UnreadableError(_message(path, error, advice)) from error


@contextlib.contextmanager
def running(path: str | Path) -> Iterator[None]:
    """Within, an exception that a user's Python file raises becomes an UnreadableError that names file and line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        told = next(iter(str(error).splitlines()), "")
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: " if told else type(error).__name__
        raise UnreadableError(f"{_place(Path(path), error)}: {kind}{told}") from error


def call_in_file(path: str | Path, function: str) -> Any:
    """What a function of a user's Python file returns; None: the file has no such function.

    The file imports from its own folder, and the project's configs from anywhere: `from configs.toy.sft import ...`.

    Raises:
        UnreadableError: it raises an exception; the line is named.
    """
    spec = importlib.util.spec_from_file_location("lcv_jax_config_file", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    sys.path[:] = [str(Path(path).parent), *before, str(PROJECT)]
    try:
        with running(path):
            spec.loader.exec_module(module)
            return getattr(module, function)() if hasattr(module, function) else None
    finally:
        sys.path[:] = before


def check_regular(path: str | Path) -> None:
    """Refuses pipes, devices and sockets, which may block for ever or never end; a missing file is left to `open`.

    Raises:
        UnreadableError: it is one of those.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UnreadableError(f"{path}: not a regular file, but a pipe, a device or a socket: give a file")


def read_text(path: str | Path) -> str:
    """A text file in UTF-8, with or without a byte-order mark.

    Raises:
        UnreadableError: another encoding.
        OSError: there is no such file.
    """
    check_regular(path)
    return decode(Path(path).read_bytes(), path)


def read_lines(path: str | Path) -> Iterator[str]:
    """The lines of a text file in UTF-8, with their endings, one after the other.

    Raises:
        UnreadableError: another encoding.
        OSError: there is no such file.
    """
    check_regular(path)
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            yield decode(line, path, number)


def read_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file; empty lines are left out.

    Raises:
        OSError: it cannot be read.
        ValueError: a line is no object.
    """
    return (parse_json(line, path) for line in read_lines(path) if line.strip())


def decode(data: bytes, path: str | Path, first_line: int = 1) -> str:
    """The bytes of a file in UTF-8, with or without a byte-order mark, from a line on.

    Raises:
        UnreadableError: another encoding; the line is named.
    """
    if first_line == 1 and data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnreadableError(f"{path}: the encoding is UTF-16; save the file as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + first_line
        raise UnreadableError(
            f"{path}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8, "
            "or convert it: iconv -f WINDOWS-1252 -t UTF-8"
        ) from None


def read_json(path: str | Path, kind: type = dict, advice: str = "") -> Any:
    """What a JSON file holds.

    Args:
        path: the file.
        kind: dict or list, whichever is expected.
        advice: what to do about a damaged file.

    Raises:
        UnreadableError: it is not JSON, or holds another kind.
        OSError: there is no such file.
    """
    return parse_json(read_text(path), path, kind, advice)


def parse_json(text: str, place: str | Path, kind: type = dict, advice: str = "") -> Any:
    """The value of a JSON text; `place` is what messages call it.

    Raises:
        UnreadableError: it is not JSON, or another kind.
    """
    with reading(place, advice):
        value = json.loads(text, object_pairs_hook=_object)
        if not isinstance(value, kind):
            names: dict[type, str] = {dict: "an object", list: "a list"}
            got = names.get(type(value), repr(value)[:40])
            raise ValueError(f"expected {names.get(kind, kind.__name__)} in JSON, got {got}")
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no character
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys differ; Python would keep the last value of one that is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there more than once")
    return found


def check_writable(path: Path) -> None:
    """Checks that a file can be written at a place, hours before it is; nothing stays behind.

    Raises:
        ValueError: a folder or a read-only file is there, or its folder cannot be made or written to.
    """
    if path.is_dir() or not path.name:
        raise ValueError(f"{path} is a folder, and a file has to be written there: choose another name")
    if path.exists() and not os.access(path, os.W_OK):
        raise ValueError(f"{path} is read-only: choose another name")
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {path.parent}: {error.strerror}") from error
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # it was not made, or something else is in it by now
                folder.rmdir()


def _message(path: str | Path, error: Exception, advice: str) -> str:
    if isinstance(error, json.JSONDecodeError):
        place = f", line {error.lineno}" if error.doc.count("\n") else ""
        told = f"{path}{place}: not JSON: {error.msg} at column {error.colno}"
    elif isinstance(error, UnicodeEncodeError):
        told = f"{path}: holds half a surrogate pair ({error.object[error.start]!a}), which is no character"
    else:
        cause = reason(error)
        told = cause if str(path) in cause else f"{path}: {cause}"
    return f"{told}; {advice}" if advice else told


def reason(error: BaseException) -> str:
    """An exception in one line: what it says, or its kind where that alone says little."""
    told = " ".join(next(iter(str(error).strip().splitlines()), "").split())
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, MemoryError):
        return "does not fit in memory"
    if isinstance(error, KeyError):
        return f"{told} is missing"
    return told if isinstance(error, ValueError) and told else f"{type(error).__name__}: {told}".rstrip(": ")


def _place(path: Path, error: BaseException) -> str:
    """File and line of a syntax error, or of the last call in the file or one beside it, or in a module's own code."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{error.filename or path}, line {error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_file()]
    if path.is_file():
        folder = path.resolve().parent
        frames = [frame for frame in frames if Path(frame.filename).resolve().parent == folder]
        return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else str(path)
    frames = [frame for frame in frames if Path(frame.filename).parent not in Path(__file__).resolve().parents]
    frames = [frame for frame in frames if not Path(frame.filename).is_relative_to(Path(__file__).parent)]
    return f"{path} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else str(path)
