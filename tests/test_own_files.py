"""Files of the package's own: whole or not at all, whoever is killed or writes at once, and what a full disk says."""

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lcv_jax.command_line import mistake
from lcv_jax.own_files import (
    DiskFullError,
    naming_full_disk,
    naming_write_errors,
    partial_path,
    replacing,
    write_json,
    write_whole,
)

NO_SPACE = os.strerror(errno.ENOSPC)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fail_after(path, error):
    with replacing(path) as partial:
        partial.write_bytes(b"half")
        raise error


def test_a_file_is_replaced_or_left_alone(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_json(path, {"a": "é"})
    for error in (ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, NO_SPACE)):
        with pytest.raises(DiskFullError if isinstance(error, OSError) else type(error)):
            fail_after(path, error)
        assert json.loads(path.read_text()) == {"a": "é"}
        assert names(path.parent) == ["a.json"]


def test_what_a_killed_process_left_is_written_over(tmp_path):
    partial_path(tmp_path / "a").write_bytes(b"a long half of it")
    write_whole(tmp_path / "a", b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert names(tmp_path) == ["a"]


WRITER = """
import sys, time
from pathlib import Path
from lcv_jax.own_files import replacing
with replacing(Path(sys.argv[1])) as partial:
    partial.write_text("theirs")
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_of_two_processes_one_writes(tmp_path):
    path = tmp_path / "a.txt"
    command = [sys.executable, "-c", WRITER, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"writing\n"
        with pytest.raises(ValueError, match="another process is writing it"), replacing(path):
            pytest.fail("entered")
        waiting = threading.Thread(target=write_whole, args=(path, b"mine"))
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
        assert not path.exists()
        other.stdin.close()
        waiting.join()
    assert path.read_bytes() == b"mine"
    assert names(tmp_path) == ["a.txt"]


def test_many_writers_at_once_leave_one_whole_file(tmp_path):
    contents = [bytes([number]) * 5000 for number in range(8)]
    writers = [threading.Thread(target=write_whole, args=(tmp_path / "a", content)) for content in contents * 4]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert (tmp_path / "a").read_bytes() in contents
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, NO_SPACE),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        OSError(errno.EFBIG, os.strerror(errno.EFBIG)),
        RuntimeError(f"INTERNAL: write() failed: {NO_SPACE}; writing /x"),
        ValueError(f"Error writing local file [OS error 28: ENOSPC {NO_SPACE}]"),
    ],
)
@pytest.mark.parametrize("naming", [naming_full_disk, naming_write_errors])
def test_a_full_disk_is_named_with_what_is_free(tmp_path, monkeypatch, error, naming):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 2_500_000))
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path.resolve())
    path = tmp_path / "not" / "there" / "a.bin"
    with pytest.raises(DiskFullError) as raised, naming_write_errors(tmp_path / "outer"), naming(path):
        raise error
    told = mistake(pickle.loads(pickle.dumps(raised.value)))  # as from another process
    assert told.startswith(f"{path}: ")
    assert f": the disk mounted at {tmp_path.resolve()} has 2.5 MB free; " in told
    assert told.endswith("run the same command again")


def test_a_full_disk_that_nobody_named_is_named_by_the_command_line(tmp_path):
    told = mistake(OSError(errno.ENOSPC, NO_SPACE, str(tmp_path / "folder")))
    assert told.startswith(f"{tmp_path / 'folder'}: no space left on device: the disk mounted at ")
    told = mistake(OSError(errno.ENOSPC, NO_SPACE, "/source", None, str(tmp_path / "copy")))
    assert told.startswith(f"{tmp_path / 'copy'}: no space left")


def test_other_errors_name_the_file_or_stay_what_they_are(tmp_path):
    with (
        pytest.raises(OSError, match="a: cannot be written \\(Permission denied\\)"),
        naming_write_errors(tmp_path / "a"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied")
    bug = RuntimeError("a bug")
    with pytest.raises(RuntimeError) as raised, naming_full_disk(tmp_path / "a"):
        raise bug
    assert raised.value is bug


def test_file_names_that_are_no_utf8_are_kept_in_json(tmp_path):
    write_json(tmp_path / "a", {"command": "\udcff.mp4"})
    assert json.loads((tmp_path / "a").read_text()) == {"command": "\udcff.mp4"}
