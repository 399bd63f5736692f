"""The listening side: limits, the set of open connections, the sweep that ends silent ones, and draining."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from gateway.http.connection import ClientConnection
from gateway.http.message import Request
from policies.outcome import ErrorKind

#: Seconds between looks for connections whose client has been silent too long.
SWEEP_INTERVAL = 1.0

Handler = Callable[[Request, ClientConnection], Coroutine[Any, Any, None]]
Refuser = Callable[[Request, ClientConnection, ErrorKind, str, int | None], None]
TakeOver = Callable[[ClientConnection, Request], bool]


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Sizes in bytes, times in seconds. `max_buffered` bounds the request bodies held over all connections."""

    max_body: int
    max_buffered: int
    max_connections: int
    max_header_size: int
    header_timeout: float
    body_timeout: float
    idle_timeout: float
    max_headers: int = 128


class Server:
    """Accepts connections and gives each request to `handler`.

    `refuser` answers what is not a usable request; `take_over` may hand a connection to another protocol and then
    returns True.
    """

    def __init__(self, limits: ServerLimits, handler: Handler, refuser: Refuser, take_over: TakeOver) -> None:
        self.loop = asyncio.get_running_loop()
        self.limits = limits
        self.handler = handler
        self.refuser = refuser
        self.take_over = take_over
        self._connections: set[ClientConnection] = set()
        self._buffered = 0
        self._server: asyncio.Server | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._draining = False

    async def listen(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Starts accepting on a bound socket."""
        self._server = await self.loop.create_server(lambda: ClientConnection(self), sock=sock, ssl=tls, backlog=1024)
        self._sweep = self.loop.call_later(SWEEP_INTERVAL, self._close_silent)

    def opened(self, connection: ClientConnection) -> bool:
        """Counts a connection; False when there are too many, and it must be closed."""
        if len(self._connections) >= self.limits.max_connections or self._draining:
            return False
        self._connections.add(connection)
        return True

    def closed(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)

    def reserve(self, size: int) -> bool:
        """Takes `size` bytes of the room for request bodies; False when there is none left."""
        if self._buffered + size > self.limits.max_buffered:
            return False
        self._buffered += size
        return True

    def unreserve(self, size: int) -> None:
        self._buffered -= size

    @property
    def buffered(self) -> int:
        """Bytes of request bodies held now."""
        return self._buffered

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def busy(self) -> int:
        """Connections whose request is being answered."""
        return sum(connection.busy for connection in self._connections)

    async def drain(self, timeout: float) -> None:
        """Stops accepting, lets what runs finish for at most `timeout` seconds, then cuts what is left."""
        self._draining = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close_when_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while any(connection.busy for connection in self._connections):  # noqa: ASYNC110 - only while stopping
                    await asyncio.sleep(0.05)
        await self.close()

    async def close(self) -> None:
        """Closes everything now."""
        if self._sweep is not None:
            self._sweep.cancel()
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()

    def _close_silent(self) -> None:
        now = self.loop.time()
        for connection in [connection for connection in self._connections if connection.deadline < now]:
            connection.expire()
        self._sweep = self.loop.call_later(SWEEP_INTERVAL, self._close_silent)
