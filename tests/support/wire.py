"""HTTP/1.1 server connections that can say any bytes: a raw asyncio protocol and one task per connection.

The task is cancelled when the client leaves, so that whatever it does for the client ends at once.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, cast

_MAX_HEAD = 1 << 20
_MAX_BODY = 256 << 20


class MalformedRequestError(Exception):
    """What the client sent is not HTTP/1.1, or is too large."""


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A request as it came: header names in lower case, the last of a repeated one wins."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]


class Connection(asyncio.Protocol):
    """One client connection, served by `serve(connection)`."""

    def __init__(self, serve: Callable[[Connection], Coroutine[Any, Any, None]], number: int) -> None:
        self.number = number
        self.requests = 0
        self._serve = serve
        self._buffer = bytearray()
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._task = asyncio.get_running_loop().create_task(self._run())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._arrived.set()

    def eof_received(self) -> None:
        return None  # as uvicorn: a client that half-closes has left

    def connection_lost(self, error: Exception | None) -> None:
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def _run(self) -> None:
        try:
            await self._serve(self)
        except (MalformedRequestError, ConnectionError):
            pass
        finally:
            self.close()

    async def stop(self) -> None:
        """Resets the connection and waits until its task has ended."""
        self.reset()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def read_request(self) -> RawRequest:
        """The next request. Raises MalformedRequestError."""
        head = await self._read_until(b"\r\n\r\n")
        try:
            start, *lines = head.decode("latin-1").split("\r\n")
            method, target, _ = start.split(" ")
            pairs = (line.split(":", 1) for line in lines)
            headers = {name.lower(): value.strip() for name, value in pairs}
            length = int(headers.get("content-length", "0"))
        except ValueError as error:
            raise MalformedRequestError(str(error)) from error
        if headers.get("expect", "").lower() == "100-continue":
            await self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        body = await self._read_chunks() if chunked else await self._read(length)
        self.requests += 1
        return RawRequest(method, target, headers, body)

    async def write(self, data: bytes) -> None:
        """Sends `data`, waiting while the client is slow. Raises ConnectionResetError when it is gone."""
        transport = self._open_transport()
        transport.write(data)
        await self._writable.wait()
        self._open_transport()

    def close(self) -> None:
        """Sends what is buffered, then FIN."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Drops what is buffered and sends RST."""
        if self._transport is None or self._transport.is_closing():
            return
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _open_transport(self) -> asyncio.Transport:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        return self._transport

    async def _read_until(self, end: bytes) -> bytes:
        while (at := self._buffer.find(end)) < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise MalformedRequestError("the head is too large")
            await self._more()
        found = bytes(self._buffer[:at])
        del self._buffer[: at + len(end)]
        return found

    async def _read(self, length: int) -> bytes:
        if not 0 <= length <= _MAX_BODY:
            raise MalformedRequestError("the body is too large")
        while len(self._buffer) < length:
            await self._more()
        found = bytes(self._buffer[:length])
        del self._buffer[:length]
        return found

    async def _read_chunks(self) -> bytes:
        body = bytearray()
        while True:
            try:
                size = int((await self._read_until(b"\r\n")).partition(b";")[0], 16)
            except ValueError as error:
                raise MalformedRequestError("bad chunk size") from error
            if size == 0:
                while await self._read_until(b"\r\n"):
                    pass
                return bytes(body)
            body += await self._read(size)
            await self._read_until(b"\r\n")
            if len(body) > _MAX_BODY:
                raise MalformedRequestError("the body is too large")

    async def _more(self) -> None:
        self._arrived.clear()
        await self._arrived.wait()
