"""A head that comes again is recognised by its bytes; what is made of it is what a parser would make."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

import gateway.http.connection as connection_module
from gateway.http.connection import ClientConnection
from gateway.http.message import Request
from gateway.http.server import Server
from policies.outcome import ErrorKind
from tests.support.transport import LIMITS, Transport

Seen = tuple[str, bytes, dict[bytes, bytes], bytes, bool]


class _Client:
    """A connection whose requests are answered at once. `heads` are the objects behind the requests, in order."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.heads: list[object] = []
        self.refused: list[ErrorKind] = []
        self.server = Server(LIMITS, self._handle, self._refuse, lambda connection, request: False)
        self.connection = ClientConnection(self.server)
        self.transport = Transport()
        self.connection.connection_made(self.transport)

    async def _handle(self, request: Request, connection: ClientConnection) -> None:
        self.seen.append((request.method, request.target, request.headers, request.body, request.keep_alive))
        self.heads.append(request.head)
        connection.send(200, b"", b"")

    def _refuse(
        self, request: Request, connection: ClientConnection, kind: ErrorKind, message: str, status: int | None
    ) -> None:
        self.refused.append(kind)
        connection.send(status or 400, b"", b"")

    def sends(self, *pieces: bytes) -> None:
        for piece in pieces:
            if not self.transport.closed:
                self.connection.data_received(piece)


def post(body: bytes, *lines: bytes, length: bytes | None = None) -> bytes:
    fields = b"".join(b"%b\r\n" % line for line in (b"Host: x", *lines))
    size = b"%d" % len(body) if length is None else length
    return b"POST /v1/completions?a=b HTTP/1.1\r\n%bContent-Length: %b\r\nAccept: */*\r\n\r\n%b" % (fields, size, body)


async def test_a_head_that_comes_again_is_not_parsed_again() -> None:
    client = _Client()
    client.sends(post(b"one"), post(b"another"), post(b""), post(b"last"))
    assert [seen[3] for seen in client.seen] == [b"one", b"another", b"", b"last"]
    assert len(set(map(id, client.heads))) == 1
    assert len({repr(seen[:3]) for seen in client.seen}) == 1


async def test_the_body_may_come_in_pieces_and_the_next_request_right_behind_it() -> None:
    client = _Client()
    whole = post(b"0123456789")
    client.sends(whole, whole[:-4], whole[-4:] + whole + whole[:-7], whole[-7:])
    assert [seen[3] for seen in client.seen] == [b"0123456789"] * 4
    assert client.server.buffered == 0


@pytest.mark.parametrize(
    "other",
    [
        post(b"two", b"X: 1"),
        post(b"two").replace(b"POST", b"PUT"),
        post(b"two").replace(b"Host: x", b"Host: y"),
        post(b"two").replace(b"Accept: */*", b"Accept: */*, a/b"),
        post(b"two").replace(b"/v1/completions", b"/v1/embeddings"),
    ],
)
async def test_another_head_is_another_request(other: bytes) -> None:
    client = _Client()
    client.sends(post(b"one"), other, other)
    assert client.heads[0] is not client.heads[1]
    assert client.heads[1] is client.heads[2]
    assert client.seen[1] == client.seen[2] != client.seen[0]


@pytest.mark.parametrize("length", [b"+3", b"3 4", b"0x3", b"-3", b"", b"3\n", b"3,3", b"99999999999999999999999"])
async def test_a_length_that_the_parser_would_refuse_is_refused(length: bytes) -> None:
    client = _Client()
    client.sends(post(b"one"), post(b"two", length=length))
    assert [seen[3] for seen in client.seen] == [b"one"]
    assert client.refused
    assert client.server.buffered == 0


async def test_a_body_above_the_limit_is_refused_by_its_length() -> None:
    client = _Client()
    client.sends(post(b"one"), post(b"x", length=b"4097"))
    assert client.refused == [ErrorKind.PAYLOAD_TOO_LARGE]
    assert client.server.buffered == 0


@pytest.mark.parametrize(
    "line",
    [
        b"Transfer-Encoding: chunked",
        b"Expect: 100-continue",
        b"Connection: close",
        b"X:  two spaces",
        b"X:none",
    ],
)
async def test_what_could_be_read_in_another_way_is_always_parsed(line: bytes) -> None:
    client = _Client()
    client.sends(post(b"one", line), post(b"two", line))
    assert len(set(map(id, client.heads))) == len(client.heads)


async def test_a_client_that_never_repeats_itself_is_not_expected_to() -> None:
    client = _Client()
    for number in range(20):
        client.sends(post(b"x", b"X-Request-ID: %d" % number))
    assert client.connection._unlike == connection_module.MOST_UNLIKE


async def test_a_body_that_never_ends_gives_its_room_back() -> None:
    client = _Client()
    whole = post(b"0123456789")
    client.sends(whole, whole[:-4])
    assert client.server.buffered == 6
    client.connection.connection_lost(None)
    assert client.server.buffered == 0


def _read(pieces: Sequence[bytes]) -> tuple[list[Seen], list[ErrorKind]]:
    async def read() -> tuple[list[Seen], list[ErrorKind]]:
        client = _Client()
        client.sends(*pieces)
        for _ in range(20):
            await asyncio.sleep(0)
        return client.seen, client.refused

    return asyncio.run(read())


def test_any_requests_in_any_pieces_are_read_as_the_parser_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(7)
    kinds = [
        post(b"a"),
        post(b"a longer body\r\n\r\n"),
        post(b""),
        post(b"x", b"X: 1"),
        post(b"y", b"Connection: close"),
        b"\r\n" + post(b"b"),
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        post(b"c", length=b"1x"),
    ]
    weights = [6, 6, 3, 3, 1, 1, 1, 1, 1]
    for _ in range(400):
        data = b"".join(rng.choices(kinds, weights, k=rng.randint(2, 7)))
        at = sorted(rng.sample(range(1, len(data)), min(len(data) - 1, rng.randint(0, 6))))
        pieces = [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]
        recognised = _read(pieces)
        with monkeypatch.context() as patched:
            patched.setattr(connection_module, "MOST_UNLIKE", 0)
            assert recognised == _read(pieces), pieces
