"""Keep-alive connections to one endpoint: bounded, last in first out, so that spare ones grow old and close."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from time import monotonic

from backends.held_up import patient_timeout
from gateway.http.repeated import RepeatedHead
from gateway.upstream.connection import Break, UpstreamConnection, UpstreamHead

#: Seconds after which an unused connection is closed. Longer than many servers keep theirs (uvicorn: 5 s): a close by
#: the server is noticed at once, and one that crosses our request is recognised as stale and tried again.
IDLE_TIMEOUT = 30.0


class PoolExhaustedError(Exception):
    """All connections that the endpoint may have are in use."""


class Pool:
    """Connections to one address. Not thread-safe: belongs to one event loop.

    `repeated` is the head that its answers have had lately, and `unlike` how many were others since.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        limit: int,
        connect_timeout: float,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.connect_timeout = connect_timeout
        self._host, self._port = host, port
        self._limit = limit
        self._tls, self._server_name = tls, server_name
        self._idle: deque[UpstreamConnection] = deque()
        self._open: set[UpstreamConnection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._closed = False
        self.repeated: RepeatedHead[UpstreamHead] | None = None
        self.unlike = 0

    @property
    def open(self) -> int:
        """Connections open or being opened."""
        return len(self._open) + len(self._connecting)

    def take(self) -> UpstreamConnection | None:
        """An idle connection that is still alive, or None."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.usable:
                connection.reused = True
                return connection
        return None

    def connect(
        self, timeout: float, ready: Callable[[UpstreamConnection], None], failed: Callable[[Break, str], None]
    ) -> asyncio.Task[None]:
        """Opens a connection and calls `ready`, or `failed` within `timeout` seconds. Cancel the task to give up.

        Raises PoolExhaustedError when the endpoint has as many connections as it may.
        """
        if self.open >= self._limit:
            raise PoolExhaustedError
        task = self.loop.create_task(self._connect(timeout, ready, failed))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return task

    async def _connect(
        self, timeout: float, ready: Callable[[UpstreamConnection], None], failed: Callable[[Break, str], None]
    ) -> None:
        try:
            async with patient_timeout(timeout):
                _, connection = await self.loop.create_connection(
                    lambda: UpstreamConnection(self),
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._server_name if self._tls else None,
                )
        except TimeoutError:
            failed(Break.CONNECT, f"no connection within {timeout:g} s")
        except (OSError, ssl.SSLError) as error:
            failed(Break.CONNECT, f"{type(error).__name__}: {error.strerror or error}"[:200])
        else:
            self._open.add(connection)
            ready(connection)

    def give_back(self, connection: UpstreamConnection) -> None:
        """Keeps a connection whose exchange is over for the next one."""
        if self._closed:
            connection.abort()
            return
        connection.idle_since = monotonic()
        self._idle.append(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        """A connection is gone."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def close_unused(self, now: float) -> None:
        """Closes connections idle for longer than `IDLE_TIMEOUT`; the oldest are at the left."""
        while self._idle and self._idle[0].idle_since + IDLE_TIMEOUT < now:
            self._idle.popleft().abort()

    def break_off(self, reason: str) -> None:
        """Closes every connection now; exchanges on them break, for this `reason`."""
        for connection in list(self._open):
            connection.break_off(reason)

    def close(self) -> None:
        """Closes what is idle now and the rest as their exchanges end."""
        self._closed = True
        for task in list(self._connecting):
            task.cancel()
        while self._idle:
            self._idle.pop().abort()
