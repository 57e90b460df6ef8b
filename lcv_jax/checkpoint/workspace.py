"""Folders that appear under their name only when they are whole."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from rich.filesize import decimal


@contextlib.contextmanager
def workspace(dest: Path, needed_bytes: int) -> Iterator[Path]:
    """A folder beside `dest` to write to; it becomes `dest` if the block ends well and is removed if not.

    A process that is killed outright leaves its folder, `.DEST.partial-PID`, behind; it can be deleted.

    Args:
        dest: must not exist, or be an empty folder.
        needed_bytes: what will be written at most.

    Raises:
        ValueError: `dest` is there already.
        OSError: the disk has not enough room, or filled up while written to.
    """
    dest = dest.absolute()
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise ValueError(f"{dest} exists and is not empty: give another folder or delete it")
    dest.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(dest.parent).free
    if free < needed_bytes:
        raise _full(dest, needed_bytes, free)
    work = dest.parent / f".{dest.name}.partial-{os.getpid()}"
    try:
        work.mkdir()
        yield work
        work.replace(dest)
    except Exception as error:
        # tensorstore reports it in an exception of another kind; the words are the system's in both.
        if os.strerror(errno.ENOSPC) in str(error):
            raise _full(dest, needed_bytes, free) from None
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def copy_folder(source: Path, dest: Path) -> None:
    """Copies files and folders, but not their permissions: a read-only source must not make what is written so."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            target = dest / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _full(dest: Path, needed_bytes: int, free_bytes: int) -> OSError:
    needed, free = decimal(needed_bytes), decimal(free_bytes)
    return OSError(errno.ENOSPC, f"the disk is full: this needs up to {needed}, {free} were free", str(dest))
