"""A PostgreSQL of its own for tests: in a temporary folder, on a free port, run by another user than root."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest


def program(name):
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)  # Debian has them off the path
    return shutil.which(name) or next(map(str, places), None)


class Postgres:
    def __init__(self):
        psycopg = pytest.importorskip("psycopg", reason='needs psycopg: pip install "lcv_jax[postgres]"')
        if program("postgres") is None or program("initdb") is None:
            pytest.skip("needs PostgreSQL: apt-get install postgresql")
        self.folder = tempfile.mkdtemp(prefix="postgres_")
        self._as = {"cwd": self.folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        if os.geteuid() == 0:  # it refuses to run as root
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self._as |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        data = f"{self.folder}/data"
        made = [program("initdb"), "-D", data, "-U", "lcv", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        subprocess.run(made, check=True, **self._as)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._psycopg, self._count = psycopg, 0
        self.start()

    def start(self):
        settings = ["fsync=off", "listen_addresses=127.0.0.1", "unix_socket_directories=", f"port={self.port}"]
        flags = [part for setting in settings for part in ("-c", setting)]
        self._process = subprocess.Popen([program("postgres"), "-D", f"{self.folder}/data", *flags], **self._as)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(self._psycopg.OperationalError):
                return self.connect("postgres").close()
            time.sleep(0.05)
        raise AssertionError("PostgreSQL did not start")

    def stop(self):
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)

    def url(self, name):
        return f"postgresql://lcv@127.0.0.1:{self.port}/{name}"

    def connect(self, name):
        return self._psycopg.connect(self.url(name), autocommit=True)

    def new(self):
        """The URL of a new database."""
        self._count += 1
        with self.connect("postgres") as db:
            db.execute(f"CREATE DATABASE jobs_{self._count}")
        return self.url(f"jobs_{self._count}")

    def close(self):
        self.stop()
        shutil.rmtree(self.folder)
