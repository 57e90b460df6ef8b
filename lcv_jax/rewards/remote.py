"""A reward behind HTTP, with any number of replicas; server.py is the other side."""

import dataclasses
import http.client
import itertools
import json
import socket
import threading
import time
import urllib.parse
import warnings
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
    parse_header,
    request_id,
    unpack_reply,
)

_MOST_REPLY = 64 << 20  # bytes
_LONGEST_PAUSE = 30.0  # seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoteConfig:
    """A reward that is asked over HTTP."""

    urls: tuple[str, ...]
    """Of its replicas, such as http://10.0.0.7:8000; they are asked in turns."""
    timeout: Seconds = 600.0
    """Seconds for one request, from connecting to the last byte."""
    start_timeout: Seconds = 10.0
    """Seconds for a replica to tell its names."""
    retries: Annotated[int, Bounds(least=0, most=1000)] = 2
    """How often a request that failed is sent again, to the next replica."""
    backoff: Annotated[float, Bounds(least=0, most=1e6)] = 0.5
    """Seconds before the first repetition; each further one waits twice as long."""
    media: Media = "npz"
    """How clips are sent; mp4 is lossy."""

    def __post_init__(self) -> None:
        check_fields(self)
        for url in self.urls:
            parts = urllib.parse.urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"urls must be such as http://HOST:PORT, got {url!r}")
        if not self.urls:
            raise ValueError("urls: give at least one")


class RemoteReward:
    """Posts clips to the replicas in turns. A refusal (4xx) is final; other faults are tried again on the next one.

    Raises:
        RewardError: no replica answers, or they offer different rewards.
    """

    def __init__(self, cfg: RemoteConfig):
        self.cfg = cfg
        self._turns = itertools.count()
        self._stopped = threading.Event()
        self._open: set[socket.socket] = set()
        self._repeat_ids: set[str] = set()
        self.names = self._ask_names()

    def score(self, videos_BTHWC: UInt8[np.ndarray, "B T H W 3"], prompts: Sequence[str], fps: float | int) -> Scores:
        """Scores, checked.

        Raises:
            RewardError: a replica refused, all attempts failed, or the answer is something else.
        """
        request = request_id()
        message = pack_request(videos_BTHWC, prompts, fps, self.cfg.media, request)
        first, attempts, faults = next(self._turns), self.cfg.retries + 1, []
        for attempt in range(attempts):
            url = self.cfg.urls[(first + attempt) % len(self.cfg.urls)]
            try:
                reply = self._request("POST", url, self.cfg.timeout, message)
                check_reply(reply, request, repeats_ids=url in self._repeat_ids)
                values, failures = unpack_reply(reply)
            except _RetryableError as error:
                faults.append(f"{url}: {error}")
            except WireError as error:
                raise RewardError(f"{url}: {error}") from None
            else:
                return checked(values, self.names, len(prompts), url, failures)
            last = attempt + 1 == attempts
            if self._stopped.is_set() or (not last and self._stopped.wait(self._pause(attempt))):
                raise RewardError(f"{url}: closed")
        raise RewardError(f"{attempts} attempts failed: {'; '.join(faults)}")

    def close(self) -> None:
        """Ends what is going on; calls that wait fail."""
        self._stopped.set()
        for connected in list(self._open):
            _shut(connected)

    def _pause(self, attempt: int) -> float:
        return min(self.cfg.backoff * 2**attempt, _LONGEST_PAUSE)

    def _ask_names(self) -> tuple[str, ...]:
        found: dict[str, tuple[str, ...]] = {}
        faults = []
        for url in self.cfg.urls:
            try:
                told = self._request("GET", url, self.cfg.start_timeout)
            except _RetryableError as error:
                faults.append(f"{url}: {error}")
                continue
            if told.get("version") != VERSION:
                raise RewardError(f"{url} speaks version {told.get('version')!r}; this side speaks {VERSION}")
            found[url] = check_names(told.get("names"), url)
            if told.get("request_ids") is True:
                self._repeat_ids.add(url)
        if not found:
            raise RewardError(f"no replica answers: {'; '.join(faults)}")
        if len({frozenset(names) for names in found.values()}) > 1:
            raise RewardError(f"replicas offer different rewards: {found}")
        if faults:
            warnings.warn(f"replicas that do not answer yet: {'; '.join(faults)}", stacklevel=3)
        return next(iter(found.values()))

    def _request(
        self, method: str, url: str, timeout: float, message: Sequence[bytes | memoryview] = ()
    ) -> Mapping[str, Any]:
        """The JSON object that a replica answers.

        Raises:
            RewardError: it refused, with a status of 400 to 499.
            _RetryableError: any other fault.
        """
        status, data = self._exchange(method, url, timeout, message)
        if status != 200:
            reason = f"{status} {_reason(data)}"
            raise RewardError(f"{url}: {reason}") if 400 <= status < 500 else _RetryableError(reason)
        try:
            return parse_header(data, "the answer")
        except WireError as error:
            raise _RetryableError(str(error)) from None

    def _exchange(
        self, method: str, url: str, timeout: float, message: Sequence[bytes | memoryview]
    ) -> tuple[int, bytes]:
        """Status and body of the answer."""
        parts = urllib.parse.urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        assert parts.hostname
        begun = time.monotonic()
        connection = kind(parts.hostname, parts.port, timeout=timeout)
        length = str(sum(len(part) for part in message))
        headers = {"Content-Type": "application/octet-stream", "Content-Length": length} if message else {}
        late = threading.Event()
        try:
            connection.connect()
            with self._watched(connection.sock, timeout - (time.monotonic() - begun), late):
                with suppress(BrokenPipeError, ConnectionResetError):  # a refusal may come before all is sent
                    connection.request(method, parts.path or "/", iter(message) if message else None, headers)
                response = connection.getresponse()
                data = response.read(_MOST_REPLY + 1)
            if late.is_set():
                raise TimeoutError
            _check_length(response, data)
            return response.status, data
        except (OSError, http.client.HTTPException) as error:
            slow = late.is_set() or isinstance(error, TimeoutError)
            reason = f"no answer within {timeout:g} s" if slow else f"{type(error).__name__}: {error}"
            raise _RetryableError(reason) from error
        finally:
            connection.close()

    @contextmanager
    def _watched(self, connected: socket.socket, seconds: float, late: threading.Event) -> Iterator[None]:
        """Ends what is sent or received within after a time, or where this is closed.

        A connection's own time-out is for each packet, and a server may send one a minute.
        """

        def stop() -> None:
            late.set()
            _shut(connected)

        timer = threading.Timer(max(0.0, seconds), stop)
        timer.daemon = True
        self._open.add(connected)
        timer.start()
        try:
            if self._stopped.is_set():
                _shut(connected)
            yield
        finally:
            timer.cancel()
            self._open.discard(connected)


class _RetryableError(Exception):
    """A fault that another replica may not have."""


def _check_length(response: http.client.HTTPResponse, data: bytes) -> None:
    """Raises _RetryableError for an answer that is cut off or too long; http.client lets both pass."""
    declared = response.getheader("Content-Length")
    if declared is not None and not (declared.isascii() and declared.isdigit()):
        raise _RetryableError(f"the answer's Content-Length is {declared!r}")
    if len(data) > _MOST_REPLY:
        raise _RetryableError(f"the answer has more than {_MOST_REPLY} bytes")
    if declared is not None and len(data) != int(declared):
        raise _RetryableError(f"the answer ended after {len(data)} of {declared} bytes")


def _shut(connected: socket.socket) -> None:
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _reason(data: bytes) -> str:
    try:
        return str(json.loads(data)["error"])[:500]
    except (ValueError, KeyError, TypeError):
        return data[:200].decode(errors="replace")
