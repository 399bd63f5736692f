"""The listening side: limits, the set of open connections, the sweep that ends silent ones, and draining."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import socket
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from math import inf
from typing import Any

from backends.held_up import longer
from gateway.http.connection import ClientConnection
from gateway.http.message import Request
from policies.outcome import ErrorKind

#: Seconds between looks for connections whose client has been silent too long; while draining, the second.
SWEEP_INTERVAL = 1.0
DRAIN_INTERVAL = 0.05
#: Seconds that clients have to take what they are told at the end of a drain.
_LAST_WORDS = 1.0

Handler = Callable[[Request, ClientConnection], Coroutine[Any, Any, None]]
Refuser = Callable[[Request, ClientConnection, ErrorKind, str, int | None], None]
TakeOver = Callable[[ClientConnection, Request], bool]
#: Gives a copy of a connection's descriptor to another process; whether that was possible.
Give = Callable[[int], bool]
#: Whether a request may be taken in whole, by its head.
Known = Callable[[Request | None], bool]


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
    returns True. `idle_timeout`: seconds that a connection may be idle now. `known` judges requests with large bodies.
    """

    def __init__(self, limits: ServerLimits, handler: Handler, refuser: Refuser, take_over: TakeOver) -> None:
        self.loop = asyncio.get_running_loop()
        self.limits = limits
        self.handler = handler
        self.refuser = refuser
        self.take_over = take_over
        self.known: Known = lambda request: True
        self._connections: set[ClientConnection] = set()
        self._lent: dict[asyncio.Transport, float] = {}  # to another protocol, and the loop time at which they close
        self._buffered = 0
        self._servers: list[asyncio.Server] = []
        self._tls: ssl.SSLContext | None = None
        self._give: Give | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._draining = False
        self._adopting: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self.idle_timeout = limits.idle_timeout

    async def listen(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Starts accepting on a bound socket."""
        self._tls = tls
        await self.also_listen(sock)
        self._sweep_later()

    async def also_listen(self, sock: socket.socket) -> asyncio.Server:
        """Accepts on one more socket; close what it gives to end that."""
        patience = self.limits.header_timeout if self._tls is not None else None
        server = await self.loop.create_server(
            lambda: ClientConnection(self), sock=sock, ssl=self._tls, backlog=1024, ssl_handshake_timeout=patience
        )
        self._servers.append(server)
        return server

    def adopt(self, sock: socket.socket) -> None:
        """Takes over a connection that another process has accepted."""
        task = self.loop.create_task(self._connect(sock))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    async def _connect(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):  # its client has left
            await self.loop.connect_accepted_socket(lambda: ClientConnection(self), sock)

    def opened(self, connection: ClientConnection) -> bool:
        """Counts a connection; False when there are too many, and it must be closed."""
        if len(self._connections) + len(self._lent) >= self.limits.max_connections and not self._make_room():
            return False
        self._connections.add(connection)
        if self._draining and self._give is None:
            connection.drain(self.loop.time() + self.idle_timeout)
        return True

    def _make_room(self) -> bool:
        """Closes the connections that have been idle longest, some at a time, as looking for them takes a while; False
        when all are busy. Who only opens connections thus keeps nobody else out."""
        idle = (connection for connection in self._connections if connection.idle)
        longest = heapq.nsmallest(len(self._connections) // 64 + 1, idle, key=lambda one: one.deadline)
        for connection in longest:
            connection.abort()
        return bool(longest)

    def closed(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def lend(self, transport: asyncio.Transport, patience: float) -> None:
        """Counts a connection that another protocol answers on; `patience` seconds from now it is closed in any case,
        as its client may never read the answer."""
        self._lent[transport] = self.loop.time() + patience

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

    def begin_drain(self, linger: float) -> None:
        """Asks clients to go: every answer says `connection: close`, and idle connections close after `linger` seconds.

        It goes on accepting. Closing an idle connection at once would break requests that are on their way to it.
        """
        self._draining = True
        self.idle_timeout = linger
        deadline = self.loop.time() + linger
        for connection in list(self._connections):
            connection.drain(deadline)
        self._close_silent()

    def stop_accepting(self) -> None:
        """Closes the listener; connections stay."""
        for server in self._servers:
            server.close()

    def give_away(self, give: Give) -> None:
        """Stops accepting and gives every connection to another process as soon as it is idle."""
        self.stop_accepting()
        self._give = give
        self._draining = True
        self._close_silent()

    def keep_none(self) -> None:
        """Nobody is there to take connections any more: they end here."""
        self._give = None
        self.begin_drain(0.0)

    async def drain(self, timeout: float) -> None:
        """Stops accepting, waits for at most `timeout` seconds until all clients have gone, then cuts off what is left:
        answers under way end with an error that says so."""
        self.stop_accepting()
        if not self._draining:
            self.begin_drain(0.0)
        await self._wait_empty(timeout)
        self.cut_off()
        await self._wait_empty(_LAST_WORDS)
        await self.close()

    def cut_off(self) -> None:
        """Ends every request under way with an error, and closes the other connections."""
        for connection in list(self._connections):
            connection.cut()

    async def _wait_empty(self, timeout: float) -> None:
        self._empty.clear()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._empty.wait()

    async def close(self) -> None:
        """Closes everything now."""
        if self._sweep is not None:
            self._sweep.cancel()
        self.stop_accepting()
        for connection in list(self._connections):
            connection.abort()

    def _close_silent(self, due: float = inf) -> None:
        """Looks after all connections; what clients sent while a sweep that was `due` could not run is read before."""
        if self._sweep is not None:
            self._sweep.cancel()
        now = self.loop.time()
        if more := longer(due, now):
            self._sweep = self.loop.call_later(more, self._close_silent)
            return
        for connection in [connection for connection in self._connections if connection.deadline <= now]:
            connection.expire()
        for transport, due in list(self._lent.items()):
            if due <= now:
                transport.abort()
            if due <= now or (transport.is_closing() and _has_written(transport)):
                del self._lent[transport]
        if self._give is not None:
            for connection in [connection for connection in self._connections if connection.idle]:
                connection.give_away(self._give)
        self._sweep_later()

    def _sweep_later(self) -> None:
        due = self.loop.time() + (DRAIN_INTERVAL if self._draining else SWEEP_INTERVAL)
        self._sweep = self.loop.call_at(due, self._close_silent, due)


def _has_written(transport: asyncio.Transport) -> bool:
    """Whether a closing transport has nothing left to write."""
    try:
        return not transport.get_write_buffer_size()
    except AttributeError:  # over TLS and closed twice: asyncio has taken it apart, and ends the connection itself
        return True
