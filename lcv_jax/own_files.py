"""Files that this package writes for itself: whole or not at all, identified by content, compared with what was begun.

What users wrote is read in user_files.py.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

SHOWN_VALUE = 60
"""Characters of a value in `differences`; longer ones are cut."""
_FULL = {
    errno.ENOSPC: "make room and run the same command again",
    errno.EDQUOT: "make room or raise the quota, and run the same command again",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f) and run the same command again",
}
"""Errors of a disk that takes no more, and what to do."""


class DiskFullError(OSError):
    """A file that does not fit on its disk: errno, a message that names the disk, the file."""


def write_whole(path: Path, content: bytes) -> None:
    """A file that is there with all of its content or, if this process or the machine dies, not at all.

    Other processes may write the same file: one waits for the other.
    """
    with replacing(path, wait=True) as partial, open(partial, "wb") as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Text in UTF-8, whole or not at all."""
    write_whole(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """JSON, whole or not at all."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    try:
        write_text(path, text)
    except UnicodeEncodeError:  # a file name that is no UTF-8
        write_text(path, json.dumps(content, indent=1) + "\n")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON Lines, whole or not at all."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


@contextlib.contextmanager
def replacing(path: Path, *, suffix: str = "", wait: bool = False) -> Iterator[Path]:
    """The hidden file to write instead of `path`; it takes that name if the block ends well, and goes if it does not.

    What a killed process left of it is written over.

    Args:
        path: the file; its folder is created.
        suffix: of the hidden file, for writers that go by it.
        wait: for another process that writes the same file.

    Raises:
        ValueError: another process writes the same file.
        OSError: it cannot be written.
    """
    partial = partial_path(path, suffix)
    with naming_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        lock = lock_file(partial, path, wait=wait)
    try:
        os.ftruncate(lock, 0)
        with naming_full_disk(path):
            yield partial
        with naming_write_errors(path):
            os.fsync(lock)
            os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        os.close(lock)


def partial_path(path: Path, suffix: str = "") -> Path:
    """Where a file is until it is complete: beside it, hidden."""
    return path.with_name(f".{path.name}.partial{suffix}")


def lock_file(lock: Path, path: Path, *, wait: bool = False) -> int:
    """Creates and locks a file, until its descriptor is closed or the process ends, however it does.

    Args:
        lock: the file. Who holds the lock may rename or remove it.
        path: what it is for, named in messages.
        wait: for another process that holds it.

    Raises:
        ValueError: another process holds it.
    """
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            raise ValueError(
                f"{path}: another process is writing it: wait for it, stop it, or choose another name"
            ) from None
        except OSError:
            return descriptor  # a file system without locks
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                return descriptor
        os.close(descriptor)  # it was renamed or removed by who held it before


@contextlib.contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Within, the error of a full disk names the file and the disk, and says how much is free.

    Writers of videos, shards and checkpoints report a full disk in exceptions of their own kinds.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if full := full_disk(error, path):
            raise full from None
        raise


@contextlib.contextmanager
def naming_write_errors(path: Path) -> Iterator[None]:
    """`naming_full_disk`, and all other errors of writing name the file too: the body writes it and does no more."""
    try:
        with naming_full_disk(path):
            yield
    except DiskFullError:
        raise
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(f"{path}: cannot be written ({reason})") from None


def full_disk(error: BaseException, path: Path) -> DiskFullError | None:
    """An exception as that of a full disk, if it is one: by its number, or by what it says.

    Args:
        error: of whatever kind.
        path: what was written; it may not exist.
    """
    if isinstance(error, DiskFullError):
        return error
    for number, advice in _FULL.items():
        reason = os.strerror(number)
        if (isinstance(error, OSError) and error.errno == number) or reason in str(error):
            return disk_full(path, f"{reason[0].lower()}{reason[1:]}", advice, number)
    return None


def disk_full(path: Path, reason: str, advice: str = _FULL[errno.ENOSPC], number: int = errno.ENOSPC) -> DiskFullError:
    """The error of a disk that takes no more: names the file, the disk by its mount point, and what is free."""
    from rich.filesize import decimal

    place = path.absolute()
    folder = next(folder for folder in (place, *place.parents) if folder.is_dir()).resolve()
    mount = next(folder for folder in (folder, *folder.parents) if folder.is_mount())
    free = decimal(shutil.disk_usage(folder).free)
    return DiskFullError(number, f"{reason}: the disk mounted at {mount} has {free} free; {advice}", str(path))


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
