"""Live streams over a WebSocket, /v1/live: prompts come in, frames go out, as fast as the client shows them.

The client sends JSON, {"type": ...}: `start` with the fields of a video, `ack` with the number of the frame that it has
shown, `prompt`, `back` with a frame's number, `save`. The server sends JSON, and frames and videos as binary messages:
the length of a header in 4 bytes, the header, which is JSON too, and the file.
"""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from lcv_jax.serving.errors import ApiError, invalid

if TYPE_CHECKING:
    from lcv_jax.serving.scheduler import Scheduler
    from lcv_jax.serving.submission import Submissions

PROTOCOL = "lcv.live"
CLIENT_MESSAGES = ("start", "ack", "prompt", "back", "save")
MOST_MESSAGES_A_SECOND = 200
_OVER = 1000
_NO_START = 1008


class Session:
    """A client's stream: waiting for a worker, or at one."""

    def __init__(self, owner: str, entry: Mapping[str, Any]):
        self.id = f"live_{secrets.token_hex(12)}"
        self.owner, self.entry, self.arrived = owner, dict(entry), time.time()
        self.place: int | None = None
        """In the queue, from 1."""
        self.tell: Callable[[dict[str, Any]], None] | None = None
        """Gives a message to the worker that makes the stream; None while it waits."""
        self.deadline: asyncio.TimerHandle | None = None
        self.leaving = False
        self._messages: asyncio.Queue[tuple[dict[str, Any], bytes | None] | None] = asyncio.Queue()

    def put(self, header: dict[str, Any], payload: bytes | None = None) -> None:
        """A message for the client. What is here unsent is bounded: a worker waits for the client's `ack`."""
        self._messages.put_nowait((header, payload))

    def wait_at(self, place: int) -> None:
        """Tells the client its place, where that is new."""
        if place != self.place:
            self.place = place
            self.put({"type": "queued", "place": place})

    def end(self, error: ApiError | None) -> None:
        """Tells the client that the stream is over, and why."""
        self.put({"type": "ended", **(error.body() if error else {"error": None})})
        self._messages.put_nowait(None)

    async def next(self) -> tuple[dict[str, Any], bytes | None] | None:
        """The next message for the client; None after the last."""
        return await self._messages.get()


class LiveEndpoint:
    """The WebSocket of /v1/live."""

    def __init__(self, scheduler: "Scheduler", submissions: "Submissions"):
        self._scheduler, self._submissions = scheduler, submissions

    async def serve(self, socket: WebSocket) -> None:
        """One client, from its first message to its last."""
        await socket.accept(PROTOCOL if PROTOCOL in socket.scope["subprotocols"] else None)
        session = None
        with contextlib.suppress(WebSocketDisconnect, OSError):
            try:
                async with asyncio.timeout(self._submissions.limits.max_upload_seconds):
                    session = await self._opening(socket)
                await self._serve(socket, session)
                await socket.close(_OVER)
            except TimeoutError:
                await _refuse(socket, invalid("no start arrived in time"))
                await socket.close(_NO_START)
            finally:
                if session:
                    self._scheduler.leave(session)

    async def _opening(self, socket: WebSocket) -> Session:
        """The session of the first `start` that makes sense."""
        while True:
            try:
                message = _parsed(await socket.receive())
                if message.pop("type") != "start":
                    raise invalid("send start first", "type")
                session = Session(socket.state.owner, await self._submissions.plan_stream(message))
                self._scheduler.join(session)
                return session
            except ApiError as error:
                await _refuse(socket, error)
            await asyncio.sleep(1 / MOST_MESSAGES_A_SECOND)

    async def _serve(self, socket: WebSocket, session: Session) -> None:
        """Passes messages in both directions until one side ends."""
        reading = asyncio.create_task(self._read(socket, session))
        writing = asyncio.create_task(_write(socket, session))
        try:
            await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)

    async def _read(self, socket: WebSocket, session: Session) -> None:
        while True:
            try:
                message = self._checked(_parsed(await socket.receive()))
                if session.tell is None:
                    raise ApiError(409, "the stream has not begun: it waits for a worker", code="not_begun")
                session.tell(message)
            except ApiError as error:
                session.put({"type": "error", **error.body()})
            await asyncio.sleep(1 / MOST_MESSAGES_A_SECOND)  # a client that sends faster is read no faster

    def _checked(self, message: dict[str, Any]) -> dict[str, Any]:
        kind, fields = message["type"], set(message) - {"type"}
        expected = {"ack": {"frame"}, "back": {"frame"}, "prompt": {"prompt"}, "save": set()}.get(kind)
        if expected is None:
            raise invalid("the stream has started: open another connection for another one", "type")
        if fields != expected:
            raise invalid(
                f"{kind} has {', '.join(expected) or 'no other field'}, got {', '.join(fields)[:80] or 'none'}"
            )
        frame = message.get("frame", 0)
        if isinstance(frame, bool) or not isinstance(frame, int) or not 0 <= frame < 2**53:
            raise invalid(f"frame must be a frame's number, got {str(frame)[:40]!r}", "frame")
        if kind == "prompt":
            self._submissions.check_prompt(message["prompt"])
        return message


async def _write(socket: WebSocket, session: Session) -> None:
    while (message := await session.next()) is not None:
        header, payload = message
        text = json.dumps(header)
        if payload is None:
            await socket.send_text(text)
        else:
            await socket.send_bytes(len(text).to_bytes(4, "big") + text.encode() + payload)


async def _refuse(socket: WebSocket, error: ApiError) -> None:
    await socket.send_json({"type": "error", **error.body()})


def _parsed(received: Mapping[str, Any]) -> dict[str, Any]:
    """A client's message.

    Raises:
        ApiError: it is none.
        WebSocketDisconnect: the client is gone.
    """
    if received["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(received.get("code") or _OVER)
    expected = f'a message is JSON, {{"type": one of {", ".join(CLIENT_MESSAGES)}, ...}}'
    text = received.get("text")
    if text is None:
        raise invalid(f"{expected}, got bytes")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise invalid(f"{expected}, got {text[:40]!r}") from None
    if not isinstance(message, dict) or message.get("type") not in CLIENT_MESSAGES:
        raise invalid(f"{expected}, got {text[:40]!r}", "type")
    return message
