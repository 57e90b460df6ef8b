"""Folders that appear under their name only when they are whole."""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from rich.filesize import decimal

from lcv_jax.own_files import disk_full, lock_file, naming_full_disk, naming_write_errors, partial_path

_REMOVALS = 50


@contextlib.contextmanager
def workspace(dest: Path, needed_bytes: int) -> Iterator[Path]:
    """A folder beside `dest` to write to; it becomes `dest` if the block ends well and is removed if not.

    A process that is killed leaves it behind, as `.DEST.partial`; the next that writes `dest` removes it.

    Args:
        dest: must not exist, or be an empty folder.
        needed_bytes: what will be written at most.

    Raises:
        ValueError: `dest` is there already, or another process is writing it.
        OSError: the disk has not enough room, or filled up while written to.
    """
    check_free(dest)
    dest = dest.resolve()  # orbax takes no ".." in paths
    work, lock = partial_path(dest), dest.with_name(f".{dest.name}.lock")
    with naming_write_errors(dest):
        dest.parent.mkdir(parents=True, exist_ok=True)
        held = lock_file(lock, dest)
    try:
        shutil.rmtree(work, ignore_errors=True)
        if shutil.disk_usage(dest.parent).free < needed_bytes:
            raise disk_full(dest, f"this needs up to {decimal(needed_bytes)}")
        with naming_full_disk(dest):
            work.mkdir()
            yield work
            work.replace(dest)
    finally:
        _remove(work)
        lock.unlink(missing_ok=True)
        os.close(held)


def check_free(dest: Path) -> None:
    """Whether a folder can be written, before long work for it begins.

    Raises:
        ValueError: it is there already and not empty.
    """
    if dest.is_symlink() and not dest.exists():
        raise ValueError(f"{dest} is a link to {dest.readlink()}, which does not exist: give another folder")
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise ValueError(f"{dest} exists and is not empty: give another folder or delete it")


def _remove(folder: Path) -> None:
    """Removes a folder that threads of a writer may still be adding files to."""
    for _ in range(_REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def copy_folder(source: Path, dest: Path) -> None:
    """Copies files and folders, but not their permissions: a read-only source must not make what is written so."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            target = dest / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
