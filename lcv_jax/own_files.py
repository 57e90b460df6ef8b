"""Files that this package writes for itself: whole or not at all, identified by content, compared with what was begun.

What users wrote is read in user_files.py.
"""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SHOWN_VALUE = 60
"""Characters of a value in `differences`; longer ones are cut."""


def write_whole(path: Path, content: bytes) -> None:
    """A file that is there with all of its content or, if this process or the machine dies, not at all."""
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")  # other processes may write the same
    with naming_write_errors(path):
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)


def write_json(path: Path, content: Any) -> None:
    """JSON, whole or not at all."""
    write_whole(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


@contextlib.contextmanager
def naming_write_errors(path: Path) -> Iterator[None]:
    """Errors of writing, such as a full disk, say which file; the writer of shards has its own kind."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(f"{path}: cannot be written ({reason})") from None


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(begun: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The fields in which two JSON objects differ: "field was X, is Y; ..."; empty if they are the same."""
    return "; ".join(
        f"{name} was {_shown(begun.get(name))}, is {_shown(now.get(name))}"
        for name in sorted({*begun, *now})
        if begun.get(name) != now.get(name)
    )


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_VALUE else f"{text[: SHOWN_VALUE - 3]}..."
