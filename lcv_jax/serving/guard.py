"""What stands before every request: keys, hosts and origins, bounds of body and time, headers of all responses.

Nothing here knows what a request is for.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import ipaddress
import math
import secrets
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lcv_jax.own_files import DiskFullError
from lcv_jax.serving.errors import ApiError
from lcv_jax.serving.limits import Limits
from lcv_jax.serving.metrics import Metrics
from lcv_jax.user_files import read_lines

ANYONE = "anyone"
"""Whose jobs are those of a server without keys."""
LEAST_KEY = 16
MOST_HEADER_BYTES = 16 << 10
KEY_PROTOCOL = "lcv.key."
"""Before a key in base64 for addresses, without padding, as a subprotocol of a WebSocket."""
_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
_DRAINED = 4
"""Times the limit of a body that are read before it is refused: many clients look for an answer only after sending."""
_OPEN = ("/", "/health", "/page/", "/openapi.json")
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"content-security-policy": _CONTENT_POLICY.encode(),
}


def read_keys(path: Path) -> dict[str, str]:
    """The owners of keys by the keys' digests, from a file of lines "NAME KEY".

    Raises:
        ValueError: a line that is none, a key that is too short or there twice, or no key at all.
    """
    owners: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        if len(parts) != 2:
            raise ValueError(f"{path}, line {number}: expected NAME KEY, got {len(parts)} words")
        if len(parts[1]) < LEAST_KEY:
            example = secrets.token_urlsafe(24)
            raise ValueError(f"{path}, line {number}: a key has at least {LEAST_KEY} characters, such as {example}")
        if owners.setdefault(digest(parts[1]), parts[0]) != parts[0]:
            raise ValueError(f"{path}, line {number}: the key of {parts[0]} is another's too")
    if not owners:
        raise ValueError(f"{path} holds no key: write lines of NAME KEY")
    return owners


def digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def is_loopback(host: str) -> bool:
    """Whether nothing outside this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """The ASGI application around the application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Mapping[str, str],
        origins: Collection[str],
        host: str,
        limits: Limits,
        metrics: Metrics,
    ):
        self.app, self.keys, self.origins, self.limits, self.metrics = app, keys, origins, limits, metrics
        self.hosts = {host, "localhost", "127.0.0.1", "::1"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._upgrade(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, begun = 0, False

        async def send_with_headers(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                present = {name.lower() for name, _ in message["headers"]}
                added = [(name, value) for name, value in _HEADERS.items() if name not in present]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        try:
            try:
                headers = self._admit(scope)
                await self.app(scope, self._bounded(headers, receive), send_with_headers)
            except (ApiError, DiskFullError) as error:
                if begun:
                    raise
                await error_response(error)(scope, receive, send_with_headers)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self.metrics.requests.labels(method, str(status or 499)).inc()

    async def _upgrade(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket: the same rules before it is accepted."""
        try:
            self._admit(scope)
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _admit(self, scope: Scope) -> dict[str, str]:
        """The headers of a request that may be made; its owner is noted.

        Raises:
            ApiError: it may not.
        """
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEADER_BYTES:
            raise ApiError(431, f"the headers take more than {MOST_HEADER_BYTES} bytes", code="too_large")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["type"] == "websocket" and "authorization" not in headers:
            headers |= _key_of_protocols(scope["subprotocols"])
        self._check_source(scope, headers)
        scope.setdefault("state", {})["owner"] = self._owner(scope["path"], headers)
        return headers

    def _owner(self, path: str, headers: Mapping[str, str]) -> str:
        """Whose request it is."""
        if not self.keys or path in _OPEN or path.startswith("/page/"):
            return ANYONE
        kind, _, key = headers.get("authorization", "").partition(" ")
        found = digest(key.strip()) if kind.lower() == "bearer" else ""
        owner = next((name for known, name in self.keys.items() if hmac.compare_digest(known, found)), None)
        if owner is None:
            raise ApiError(
                401, "a key is needed: send the header Authorization: Bearer KEY", code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        return owner

    def _check_source(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Refuses other web sites, which a browser lets reach addresses of its own machine."""
        host = headers.get("host", "")
        name = (urlsplit(f"//{host}").hostname or "") if _is_host(host) else ""
        if not self.keys and name not in self.hosts:
            raise ApiError(403, f"requests to the host {host[:80]!r} are not answered without keys", code="wrong_host")
        origin = headers.get("origin")
        if origin is None or scope.get("method") in ("GET", "HEAD", "OPTIONS") or origin in self.origins:
            return
        if urlsplit(origin).netloc != host if _is_host(origin) else True:
            raise ApiError(403, f"requests from pages of {origin[:80]!r} are not accepted", code="wrong_origin")

    def _bounded(self, headers: Mapping[str, str], receive: Receive) -> Receive:
        """The body, of bounded size and in bounded time."""
        most, length = self.limits.max_body_megabytes << 20, headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or len(length) > 20:
            raise ApiError(400, "Content-Length is no number", code="invalid_value")
        too_large = ApiError(
            413, f"the request is larger than {self.limits.max_body_megabytes} MB", code="too_large",
            headers={"Connection": "close"},
        )  # fmt: skip
        if int(length) > _DRAINED * most:
            raise too_large
        taken, complete, deadline = 0, False, math.inf

        async def bounded() -> Message:
            nonlocal taken, complete, deadline
            if complete:
                return await receive()  # waits for the client to go away
            now = asyncio.get_running_loop().time()
            deadline = min(deadline, now + self.limits.max_upload_seconds)
            try:
                async with asyncio.timeout(deadline - now):
                    message = await receive()
            except TimeoutError:
                raise ApiError(
                    408, f"the request did not arrive within {self.limits.max_upload_seconds:g} s", code="too_slow",
                    headers={"Connection": "close"},
                ) from None  # fmt: skip
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                complete = not message.get("more_body", False)
                if taken > _DRAINED * most or (taken > most and complete):
                    raise too_large
                if taken > most:
                    return {"type": "http.request", "body": b"", "more_body": True}
            return message

        return bounded


def _key_of_protocols(protocols: Collection[str]) -> dict[str, str]:
    """A key among a WebSocket's subprotocols, for browsers can send no header there."""
    for protocol in protocols:
        if protocol.startswith(KEY_PROTOCOL):
            text = protocol.removeprefix(KEY_PROTOCOL)
            with contextlib.suppress(ValueError):
                return {"authorization": f"Bearer {base64.urlsafe_b64decode(text + '=' * (-len(text) % 4)).decode()}"}
    return {}


def _is_host(text: str) -> bool:
    try:
        urlsplit(text if "//" in text else f"//{text}").hostname  # noqa: B018
    except ValueError:
        return False
    return True


def error_response(error: Exception) -> JSONResponse:
    """The response of a refused request."""
    if isinstance(error, DiskFullError):
        error = ApiError(507, f"the server's disk is full: {error.strerror}", code="disk_full")
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)
