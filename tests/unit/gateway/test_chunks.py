"""How a client's answer is cut into chunks: the length in front is that of what follows, whatever that is."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.http.connection import ClientConnection
from gateway.http.message import Request
from gateway.http.server import Server
from tests.support.transport import LIMITS, Transport


class _Kept(Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += bytes(data)


@pytest.mark.parametrize("size", [1, 9, 10, 15, 16, 255, 256, 1023, 1024, 1025, 65536, 1 << 20])
async def test_each_piece_goes_out_as_one_chunk_of_its_length(size: int) -> None:
    piece = b"x" * size

    async def handle(request: Request, connection: ClientConnection) -> None:
        connection.start(200, b"")
        connection.write(piece)
        connection.write(b"")
        connection.end()

    connection = ClientConnection(Server(LIMITS, handle, lambda *_: None, lambda connection, request: False))
    transport = _Kept()
    connection.connection_made(transport)
    connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    _, _, body = transport.written.partition(b"\r\n\r\n")
    assert body == format(size, "x").encode() + b"\r\n" + piece + b"\r\n0\r\n\r\n"
