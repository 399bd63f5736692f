"""The floor for Python: parsers in C on both sides, bytes passed between them, no policy, no checks, no timeouts."""

from __future__ import annotations

import asyncio
import sys

import httptools
import uvloop


class Upstream(asyncio.Protocol):
    """A connection to the backend, used by one client connection at a time."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.client: Client | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        client, self._complete = self.client, False
        self._parser.feed_data(data)
        if client is not None:
            client.transport.write(data)
            if self._complete:
                client.upstream = self.client = None
                POOL.append(self)

    def on_message_complete(self) -> None:
        self._complete = True


class Client(asyncio.Protocol):
    """A client's connection."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._headers: list[tuple[bytes, bytes]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.upstream: Upstream | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        lines = b"".join([b"%b: %b\r\n" % header for header in self._headers])
        data = b"%b %b HTTP/1.1\r\n%b\r\n%b" % (self._parser.get_method(), self._url, lines, b"".join(self._body))
        self._body, self._headers = [], []
        if POOL:
            self._send(POOL.pop(), data)
        else:
            task = asyncio.get_running_loop().create_task(self._connect(data))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, data: bytes) -> None:
        _, upstream = await asyncio.get_running_loop().create_connection(Upstream, "127.0.0.1", BACKEND)
        self._send(upstream, data)

    def _send(self, upstream: Upstream, data: bytes) -> None:
        self.upstream = upstream
        upstream.client = self
        upstream.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.upstream is not None:
            self.upstream.transport.abort()


POOL: list[Upstream] = []
BACKEND = int(sys.argv[2]) if len(sys.argv) > 2 else 0


async def _main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Client, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1])))
