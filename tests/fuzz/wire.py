"""Fuzz targets of HTTP/1.1 in both directions, each compared with h11, a strict parser of another make."""

from __future__ import annotations

import asyncio
import contextlib

import h11

from gateway.http.connection import ClientConnection
from gateway.http.message import Request
from gateway.http.server import Server, ServerLimits
from gateway.upstream.connection import Break, UpstreamConnection, UpstreamHead
from gateway.upstream.request import passed_on, request_head
from tests.support.transport import Transport

_LIMITS = ServerLimits(65536, 131072, 10, 8192, 1.0, 1.0, 1.0)
#: (method, target, body) of a request.
Seen = tuple[str, bytes, bytes]


def cut(data: bytes) -> list[bytes]:
    """The same bytes in pieces, at places that depend on them."""
    places = sorted({(byte * (number + 7)) % (len(data) + 1) for number, byte in enumerate(data[:4])})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


async def _requests(pieces: list[bytes]) -> tuple[list[Seen], bool]:
    """What the gateway's connection makes of bytes: the requests it hands on, and whether it refused something."""
    seen: list[Seen] = []
    refusals: list[str] = []

    async def handler(request: Request, connection: ClientConnection) -> None:
        seen.append((request.method, request.target, request.body))
        head = request_head(request.method, request.target, b"host: x\r\n", passed_on(request.headers), 0)
        assert head.count(b"\r\n\r\n") == 1, "a request to a backend with two ends"
        assert head.count(b"\n") == head.count(b"\r") == head.count(b"\r\n"), "a bare CR or LF to a backend"
        assert b"\0" not in head
        connection.send(200, b"", b"ok")

    def refuser(request: Request, connection: ClientConnection, kind: object, message: str, status: int | None) -> None:
        refusals.append(message)
        connection.send(status or 400, b"", b"no")

    server = Server(_LIMITS, handler, refuser, lambda connection, request: False)
    connection = ClientConnection(server)
    transport = Transport()
    connection.connection_made(transport)
    for piece in pieces:
        if not transport.closed:
            connection.data_received(piece)
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    connection.connection_lost(None)
    await asyncio.sleep(0)
    assert server.buffered == 0, "room for bodies was not given back"
    assert server.connections == 0
    assert len(refusals) <= 1, "refused twice"
    return seen, bool(refusals) or transport.closed


def _reference_requests(data: bytes) -> list[Seen]:
    """What h11 makes of them, up to the first that it refuses."""
    seen: list[Seen] = []
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    with contextlib.suppress(h11.RemoteProtocolError, h11.LocalProtocolError):
        while True:
            event = connection.next_event()
            if not isinstance(event, h11.Request):
                break
            head, body = event, b""
            while isinstance(event := connection.next_event(), h11.Data):
                body += event.data
            if not isinstance(event, h11.EndOfMessage):
                break
            seen.append((head.method.decode(), head.target, body))
            connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            connection.start_next_cycle()
    return seen


def requests(data: bytes) -> None:
    """A client's bytes: the same however they are cut, and where h11 reads requests too, the same ones."""
    whole, _ = asyncio.run(_requests([data]))
    pieces, _ = asyncio.run(_requests(cut(data)))
    assert whole == pieces, "read otherwise in pieces"
    again, _ = asyncio.run(_requests([data, data]))
    assert again == asyncio.run(_requests([data + data]))[0], "read otherwise when they come again"
    for ours, theirs in zip(whole, _reference_requests(data), strict=False):
        if theirs[1][:1] == b"/":  # the absolute form is brought into the origin form here
            assert ours == theirs, f"a request that two servers read differently: {ours!r}, {theirs!r}"


class _Pool:
    """What a connection tells its pool."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.repeated = None
        self.unlike = self.given_back = 0

    def give_back(self, connection: object) -> None:
        self.given_back += 1

    def lost(self, connection: object) -> None: ...


class _Sink:
    def __init__(self) -> None:
        self.heads: list[UpstreamHead] = []
        self.body = b""
        self.ends: list[Break | None] = []

    def on_head(self, head: UpstreamHead) -> None:
        assert not self.ends, "a head after the end"
        self.heads.append(head)

    def on_data(self, data: bytes) -> None:
        assert self.heads, "a body before its head"
        assert not self.ends, "more after the end"
        self.body += data

    def on_end(self) -> None:
        self.ends.append(None)

    def on_broken(self, reason: Break, detail: str) -> None:
        self.ends.append(reason)


async def _answer(pieces: list[bytes]) -> tuple[int, bytes, bool, bool]:
    """(status, body, whether it is whole, whether the connection is used again) of a backend's bytes."""
    pool, sink, transport = _Pool(asyncio.get_running_loop()), _Sink(), Transport()
    connection = UpstreamConnection(pool)  # type: ignore[arg-type]
    connection.connection_made(transport)
    connection.send(sink, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"")
    for piece in pieces:
        if piece and not transport.closed:
            connection.data_received(piece)
    connection.connection_lost(None)
    assert len(sink.ends) == 1, f"ended {len(sink.ends)} times"
    assert len(sink.heads) <= 1, "two heads for one request"
    assert pool.given_back <= 1
    status = sink.heads[0].status if sink.heads else 0
    return status, sink.body, sink.ends == [None], bool(pool.given_back)


def _reference_answer(data: bytes) -> tuple[int, bytes] | None:
    """(status, body) as h11 reads them; None where it refuses them or they are not whole."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    connection.receive_data(b"") if data else None
    try:
        while isinstance(event := connection.next_event(), h11.InformationalResponse):
            pass
        if not isinstance(event, h11.Response):
            return None
        status, body = event.status_code, b""
        while isinstance(event := connection.next_event(), h11.Data):
            body += event.data
        return (status, body) if isinstance(event, h11.EndOfMessage) else None
    except (h11.RemoteProtocolError, h11.LocalProtocolError):
        return None


def answers(data: bytes) -> None:
    """A backend's bytes: one end for one request, the same however cut, and what h11 reads where both accept."""
    whole = asyncio.run(_answer([data]))
    pieces = asyncio.run(_answer(cut(data)))
    assert whole[:3] == pieces[:3], f"read otherwise in pieces: {whole!r}, {pieces!r}"
    theirs = _reference_answer(data)
    if whole[2] and theirs is not None:
        assert whole[:2] == theirs, f"an answer that two clients read differently: {whole!r}, {theirs!r}"


REQUESTS = [
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nX: y\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    b"GET http://a/b?c=d HTTP/1.1\r\nHost: a\r\nConnection: upgrade, x-y\r\nUpgrade: h2c\r\nX-Y: z\r\n\r\n",
    b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05hello",
    b"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]
ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nuntil the end",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 304 Not Modified\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nHTTP/1.1 302 Found\r\nLocation: http://b/\r\n\r\n",
]
