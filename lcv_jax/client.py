"""A client of `lcv serve`, with nothing but Python's library: progress as it comes, and cancelling.

    client = Client("http://127.0.0.1:8000")
    client.make("cat.mp4", prompt="a cat surfs a wave", on_change=lambda video: print(video["progress"]))

Videos are dictionaries, as the server sends them: docs/serving.md.
"""

import contextlib
import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

Video = dict[str, Any]
_RETRIES = 5
_EVENTS_SILENT = 60.0  # seconds; the server gives a sign of life every 15


class ServerError(Exception):
    """What a server refused, or could not do.

    Args:
        message: of the server.
        status: of HTTP; 0 where there was no answer.
        code: for programs, such as "invalid_value", "cancelled", "out_of_memory".
        param: the field at fault, if one is.
    """

    def __init__(self, message: str, *, status: int = 0, code: str | None = None, param: str | None = None):
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


class Client:
    """A server.

    Args:
        address: such as http://127.0.0.1:8000.
        key: where the server needs one.
        timeout: seconds without an answer.
    """

    def __init__(self, address: str, key: str | None = None, timeout: float = 60.0):
        self.address, self._key, self._timeout = address.rstrip("/"), key, timeout

    def make(
        self,
        output: str | Path,
        *,
        image: str | Path | None = None,
        clip: str | Path | None = None,
        on_change: Callable[[Video], None] | None = None,
        **fields: Any,
    ) -> Video:
        """Makes a video and writes it to a file. Ctrl-C, or an exception of `on_change`, cancels it.

        Args:
            output: the mp4 to write.
            image: file of the image to begin with; clip: of the clip to go on from, or to refine.
            on_change: told the video whenever something about it changes: status, place in the queue, step, time left.
            fields: of the request: prompt, seed, size, ...

        Raises:
            ServerError: the request is refused, or the video failed.
        """
        video = self.create(image=image, clip=clip, **fields)
        try:
            for changed in self.follow(video["id"]):
                video = changed
                if on_change is not None:
                    on_change(video)
        except BaseException:
            with contextlib.suppress(ServerError):
                self.cancel(video["id"])
            raise
        if video["status"] != "completed":
            raise ServerError(video["error"]["message"], code=video["error"]["code"])
        self.download(video["id"], output)
        return video

    def create(self, *, image: str | Path | None = None, clip: str | Path | None = None, **fields: Any) -> Video:
        """Puts a video into the queue; arguments as in `make`.

        Raises:
            ServerError: the request is refused.
        """
        files = [Path(path) for path in (image, clip) if path is not None]
        if not files:
            return self._json("POST", "/v1/videos", json.dumps(fields).encode(), "application/json")
        if len(files) > 1:
            raise ValueError("give an image or a clip, not both")
        edge = uuid.uuid4().hex
        parts = [_part(edge, name, _as_text(value)) for name, value in fields.items() if value is not None]
        parts.append(_part(edge, "input_reference", files[0].read_bytes(), filename="input"))
        body = b"".join(parts) + f"--{edge}--\r\n".encode()
        return self._json("POST", "/v1/videos", body, f"multipart/form-data; boundary={edge}")

    def follow(self, video_id: str) -> Iterator[Video]:
        """The video now and whenever it changes, until it is completed or has failed.

        Raises:
            ServerError: there is no such video, or the server is gone.
        """
        failures = 0
        while True:
            try:
                for event, video in self._events(video_id):
                    if event == "deleted":
                        raise ServerError("the video was deleted", status=404, code="not_found")
                    failures = 0
                    yield video
                    if video["status"] in ("completed", "failed"):
                        return
            except (OSError, EOFError) as error:
                failures += 1
                if failures > _RETRIES:
                    raise ServerError(f"{self.address}: {error}") from error
                time.sleep(failures)

    def retrieve(self, video_id: str) -> Video:
        """A video as it is now."""
        return self._json("GET", _path(video_id))

    def list(self, limit: int = 20) -> list[Video]:
        """The newest videos."""
        found: list[Video] = self._json("GET", f"/v1/videos?limit={limit}")["data"]
        return found

    def cancel(self, video_id: str) -> Video:
        """Ends a video that waits or is being made, within one step."""
        return self._json("POST", f"{_path(video_id)}/cancel")

    def delete(self, video_id: str) -> None:
        """Deletes a video, and ends it before if need be."""
        self._json("DELETE", _path(video_id))

    def download(self, video_id: str, output: str | Path, variant: str = "video") -> None:
        """Writes a finished video, its "thumbnail", "spritesheet" or "sidecar" to a file."""
        content = self._send("GET", f"{_path(video_id)}/content?variant={quote(variant)}")
        Path(output).write_bytes(content)

    def _events(self, video_id: str) -> Iterator[tuple[str, Video]]:
        event = ""
        with self._open("GET", f"{_path(video_id)}/events", timeout=_EVENTS_SILENT) as stream:
            for line in stream:
                name, _, value = line.decode().rstrip("\r\n").partition(": ")
                if name == "event":
                    event = value
                elif name == "data":
                    yield event, json.loads(value)
        raise EOFError("the stream of events ended")

    def _json(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> Video:
        found: Video = json.loads(self._send(method, path, body, kind))
        return found

    def _send(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> bytes:
        """An answer. What may have been lost on the way is sent again, with a key by which the server knows it."""
        again = uuid.uuid4().hex
        for attempt in range(_RETRIES + 1):
            try:
                with self._open(method, path, body, kind, again=again) as reply:
                    content: bytes = reply.read()
                    return content
            except OSError as error:
                if attempt == _RETRIES:
                    raise ServerError(f"{self.address}: {getattr(error, 'reason', error)}") from error
                time.sleep(0.2 * 2**attempt)
        raise AssertionError("unreachable")

    def _open(
        self, method: str, path: str, body: bytes | None = None, kind: str = "", *, again: str = "",
        timeout: float | None = None,
    ) -> Any:  # fmt: skip
        headers = {"Content-Type": kind} if kind else {}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        if method == "POST":
            headers["Idempotency-Key"] = again
        request = urllib.request.Request(self.address + path, body, headers, method=method)
        try:
            return urllib.request.urlopen(request, timeout=timeout or self._timeout)
        except urllib.error.HTTPError as error:
            with error:
                raise _refused(error) from None


def _refused(error: urllib.error.HTTPError) -> ServerError:
    try:
        told = json.loads(error.read())["error"]
        return ServerError(told["message"], status=error.code, code=told["code"], param=told["param"])
    except (ValueError, KeyError, TypeError):
        return ServerError(f"status {error.code}: {error.reason}", status=error.code)


def _path(video_id: str) -> str:
    return f"/v1/videos/{quote(video_id, safe='')}"


def _as_text(value: Any) -> bytes:
    return (value if isinstance(value, str) else json.dumps(value)).encode()


def _part(edge: str, name: str, content: bytes, filename: str = "") -> bytes:
    file = f'; filename="{filename}"' if filename else ""
    return f'--{edge}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"
