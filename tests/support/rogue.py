"""A backend that says exactly the bytes it is told to, whatever they are, to every request for a model."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from types import TracebackType
from typing import Self

_IDLE_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class RogueBackend:
    """`async with RogueBackend() as rogue: rogue.says = b"HTTP/1.1 …"`; `None` closes without a word.

    `asked` counts requests under /v1/, `seen` are their heads; `sent` counts bytes said, `connections` those accepted.
    With `keeps` a connection stays open after an answer; `unasked` is said on each before anything has been read.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.says: bytes | list[bytes] | None = None
        self.unasked = b""
        self.keeps = False
        self.asked = self.sent = self.connections = 0
        self.seen: list[bytes] = []
        self.port = 0
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.connections += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if self.unasked:
                    writer.write(self.unasked)
                while await self._exchange(reader, writer):
                    pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        if length := re.search(rb"content-length: (\d+)", head):
            await reader.readexactly(int(length[1]))
        if b" /v1/" not in head.split(b"\r\n", 1)[0]:
            writer.write(_IDLE_ANSWER)
            return True
        self.asked += 1
        self.seen.append(head)
        if self.says is None:
            return False
        for piece in [self.says] if isinstance(self.says, bytes) else self.says:
            writer.write(piece)
            self.sent += len(piece)
            await writer.drain()
        return self.keeps
