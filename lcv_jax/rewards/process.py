"""A reward in a process of its own, with its own Python and packages; worker.py is the other side."""

import dataclasses
import io
import os
import select
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.bounds import Bounds, Seconds, check_fields
from lcv_jax.rewards.protocol import RewardError, Scores, check_names, checked
from lcv_jax.rewards.wire import (
    VERSION,
    Media,
    WireError,
    check_reply,
    pack_request,
    read_message,
    request_id,
    unpack_reply,
)

_MOST_REPLY = 64 << 20  # bytes
_TOLD = 2000  # characters of standard error
_SILENCE = 0.02  # seconds in which a worker whose replies hold no ids must not send another


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessConfig:
    """A reward that is started."""

    command: tuple[str, ...]
    """Such as ("/opt/hps/bin/python", "-m", "lcv_jax.rewards.worker", "module:factory")."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables that differ from this process's."""
    timeout: Seconds = 600.0
    """Seconds for one batch; a worker that takes longer is killed."""
    start_timeout: Seconds = 600.0
    """Seconds until it is ready, its weights loaded."""
    retries: Annotated[int, Bounds(least=0, most=1000)] = 2
    """How often a worker that died is started again, and asked again, before a batch is given up."""
    media: Media = "npz"
    """How clips are sent; mp4 is lossy."""

    def __post_init__(self) -> None:
        check_fields(self)


class ProcessReward:
    """Asks a worker, and starts another where it died.

    Raises:
        RewardError: it cannot be started, or says so.
    """

    def __init__(self, cfg: ProcessConfig):
        self.cfg = cfg
        self._source = shlex.join(cfg.command)
        self._lock = threading.Lock()
        self._closed = False
        self._worker: _Worker | None = _Worker(cfg, self._source)
        self.names = self._worker.names

    def score(self, videos_BTHWC: UInt8[np.ndarray, "B T H W 3"], prompts: Sequence[str], fps: float | int) -> Scores:
        """Scores, checked. A worker that died or was late is started again, `retries` times.

        Raises:
            RewardError: it died or was late each time, the reward raised an exception, or answered with something else.
        """
        request = request_id()
        message = pack_request(videos_BTHWC, prompts, fps, self.cfg.media, request)
        with self._lock:
            reply = self._ask(message, request)
        try:
            values, failures = unpack_reply(reply)
        except WireError as error:
            raise RewardError(f"{self._source}: {error}") from None
        return checked(values, self.names, len(prompts), self._source, failures)

    def close(self) -> None:
        """Ends the worker; a call that waits for it fails."""
        self._closed = True
        worker = self._worker
        if worker is not None:
            worker.end()

    def _ask(self, message: Sequence[bytes | memoryview], request: str) -> Mapping[str, Any]:
        attempts = self.cfg.retries + 1
        for attempt in range(attempts):
            if self._closed:
                raise RewardError(f"{self._source}: closed")
            try:
                if self._worker is None:
                    self._worker = _Worker(self.cfg, self._source)
                if self._closed:
                    self._worker.end()
                return self._worker.ask(message, request, self.cfg.timeout)
            except RewardError as error:
                self._worker = None
                if attempt + 1 == attempts or self._closed:
                    raise RewardError(f"{error} (attempt {attempt + 1} of {attempts})") from error
        raise AssertionError("unreachable")


class _Worker:
    """One running process; an exception from any method means that it runs no more."""

    def __init__(self, cfg: ProcessConfig, source: str):
        self._source, self._told = source, b""
        try:
            self._process = subprocess.Popen(
                cfg.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **dict(cfg.environment)},
                start_new_session=True,  # Ctrl-C is for the trainer; a time-out is for its children too
            )
        except OSError as error:
            raise RewardError(f"{source}: cannot be started: {error}") from None
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        with self._within(cfg.start_timeout, "not ready"):
            header, _ = read_message(self._stream("stdout"), _MOST_REPLY)
        if header.get("version") != VERSION or "error" in header:
            self.end()
            raise RewardError(
                f"{source}: {header.get('error', f'speaks another version than {VERSION}')}{self._tail()}"
            )
        try:
            self.names = check_names(header.get("names"), source)
            self._repeats_ids = header.get("request_ids") is True
        except RewardError:
            self.end()
            raise

    def ask(self, message: Sequence[bytes | memoryview], request: str, timeout: float) -> Mapping[str, Any]:
        """The reply's header, checked to be the only one and to answer this request."""
        with self._within(timeout, "no scores"):
            self._check_silent()
            for part in message:
                self._stream("stdin").write(part)
            self._stream("stdin").flush()
            header = read_message(self._stream("stdout"), _MOST_REPLY)[0]
            check_reply(header, request, repeats_ids=self._repeats_ids)
            if not self._repeats_ids:
                self._check_silent(_SILENCE)
            return header

    def _check_silent(self, seconds: float = 0.0) -> None:
        """Raises WireError where more came than was asked for: a later request would take it for its reply."""
        stream = self._stream("stdout")
        select.select([stream], [], [], seconds)
        os.set_blocking(stream.fileno(), False)
        try:
            unread = stream.peek(1)  # type: ignore[attr-defined]
        finally:
            os.set_blocking(stream.fileno(), True)
        if unread:
            raise WireError(f"sent something besides its replies: {unread[:40]!r}")

    def end(self) -> None:
        """Kills it and its children."""
        # Its number stays taken until wait(), so that no other process can be meant.
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._listener.join(timeout=1)
        for name in ("stdin", "stdout"):
            with suppress(OSError):
                self._stream(name).close()

    @contextmanager
    def _within(self, timeout: float, what: str) -> Iterator[None]:
        """Kills the process after a time, which ends what is read or written within."""
        late = threading.Event()

        def kill() -> None:
            late.set()
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

        timer = threading.Timer(timeout, kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, EOFError, ValueError) as error:
            timer.cancel()
            # Whoever dies by itself has an exit status of its own.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1)
            status = self._process.poll()
            self.end()
            reason = (
                f"{what} within {timeout:g} s" if late.is_set()
                else f"died with status {status}" if status is not None
                else f"{error}"
            )  # fmt: skip
            raise RewardError(f"{self._source}: {reason}{self._tail()}") from error
        finally:
            timer.cancel()

    def _stream(self, name: str) -> io.BufferedIOBase:
        stream = getattr(self._process, name)
        assert stream is not None
        return stream

    def _listen(self) -> None:
        stream = self._stream("stderr")
        with suppress(OSError, ValueError):
            while data := os.read(stream.fileno(), 4096):
                self._told = (self._told + data)[-_TOLD:]
        stream.close()

    def _tail(self) -> str:
        lines = self._told.decode(errors="replace").strip().splitlines()[-8:]
        return f"; its last lines: {' | '.join(lines)}" if lines else ""
