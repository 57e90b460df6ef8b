"""Checksums of the files of a folder, written beside them and verified before anything is read.

    FOLDER/checksums.json    {"facts": ..., "files": {NAME: {"size": ..., "sha256": ...}}, "sha256": of these two}

SHA-256 is what the rest of a converted folder's provenance uses, identifies content too, and is computed by OpenSSL
without Python's lock: threads hash several files at once, at the speed of most disks.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lcv_jax.own_files import file_sha256
from lcv_jax.user_files import UnreadableError, read_json, reading

CHECKSUMS = "checksums.json"
THREADS = min(16, (os.cpu_count() or 1) + 4)


class DamagedError(ValueError):
    """A file is not what was written."""


def sha256_of(value: Any) -> str:
    """The SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_checksums(folder: Path, *, without: Callable[[str], bool], **facts: Any) -> None:
    """Hashes the files of a folder and writes the list to disk.

    Args:
        folder: where everything is in place.
        without: which files to leave out, by their paths in it.
        facts: JSON values to store and verify with them.
    """
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    names = [name for name in names if name != CHECKSUMS and not without(name)]
    with ThreadPoolExecutor(THREADS) as pool:
        digests = list(pool.map(lambda name: file_sha256(folder / name), names))
    files = {
        name: {"size": (folder / name).stat().st_size, "sha256": digest}
        for name, digest in zip(names, digests, strict=True)
    }
    content = {"facts": facts, "files": files}
    with (folder / CHECKSUMS).open("x", encoding="utf-8") as file:  # never through a link into another folder's
        json.dump({**content, "sha256": sha256_of(content)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def read_checksums(folder: Path) -> dict[str, Any]:
    """The list, itself verified: `facts`, and `files` by name.

    Raises:
        DamagedError: there is none, or it is damaged.
    """
    path = folder / CHECKSUMS
    try:
        content = read_json(path)
        with reading(path):
            found = content.pop("sha256")
            content["facts"], content["files"]
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedError(f"it has no {CHECKSUMS}") from None
    except UnreadableError as error:
        raise DamagedError(str(error)) from None
    if sha256_of(content) != found:
        raise DamagedError(f"{CHECKSUMS}: its content changed")
    return content


def verify(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Compares files with their checksums.

    Raises:
        DamagedError: one is missing or has other content; the first of them is named.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        for fault in pool.map(lambda item: _fault(folder / item[0], item[1]), files.items()):
            if fault:
                pool.shutdown(wait=False, cancel_futures=True)
                raise DamagedError(fault.removeprefix(f"{folder}/"))


def share(files: Mapping[str, Mapping[str, Any]], index: int, count: int) -> dict[str, Mapping[str, Any]]:
    """The files that one of several processes verifies: about as many bytes for each."""
    by_size = sorted(files, key=lambda name: (-files[name]["size"], name))
    return {name: files[name] for name in by_size[index::count]}


def _fault(path: Path, recorded: Mapping[str, Any]) -> str | None:
    try:
        size = path.stat().st_size
        if size != recorded["size"]:
            return f"{path}: {size} bytes instead of {recorded['size']}"
        return None if file_sha256(path) == recorded["sha256"] else f"{path}: its content changed"
    except OSError as error:
        return f"{path}: {error.strerror or error}"
