"""Folders that appear when they are whole."""

import threading
import time

import pytest

from lcv_jax.checkpoint.workspace import workspace


def test_what_threads_still_write_when_it_is_interrupted_goes_too(tmp_path):
    def write(folder, begun):
        for number in range(300):
            try:
                (folder / f"{number}.bin").write_bytes(b"late")
            except FileNotFoundError:
                return  # the folder is gone
            begun.set()
            time.sleep(0.001)

    def interrupted():
        with workspace(tmp_path / "dest", 1) as work:
            threads.extend(threading.Thread(target=write, args=(work, begun)) for _ in range(2))
            for thread in threads:
                thread.start()
            begun.wait()
            raise KeyboardInterrupt

    threads, begun = [], threading.Event()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    for thread in threads:
        thread.join()
    assert list(tmp_path.iterdir()) == []
