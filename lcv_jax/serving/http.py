"""Uvicorn with bounds for what comes before a request: time for its headers, their size, the number of connections."""

import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from lcv_jax.serving.guard import MOST_HEADER_BYTES

HEADER_SECONDS = 20
MOST_CONNECTIONS = 1000
MOST_MESSAGE_BYTES = 64 << 10
"""Of a WebSocket's client."""


class BoundedProtocol(H11Protocol):
    """Closes connections that send nothing, or headers too slowly."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(HEADER_SECONDS, self._close_if_silent)

    def _close_if_silent(self) -> None:
        upgraded = self.transport.get_protocol() is not self  # to a WebSocket, which has limits of its own
        if self.cycle is None and not upgraded and not self.transport.is_closing():
            self.transport.close()


class _Server(uvicorn.Server):
    """Ends by itself, too."""

    def __init__(self, config: uvicorn.Config, ended: Callable[[], bool]):
        super().__init__(config)
        self._ended = ended

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._ended()


def serve(app: ASGIApp, listening: socket.socket, ended: Callable[[], bool]) -> None:
    """Answers requests until SIGINT or SIGTERM, or until `ended` says so."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="auto",
        ws_max_size=MOST_MESSAGE_BYTES,
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=3,
    )
    _Server(config, ended).run(sockets=[listening])
