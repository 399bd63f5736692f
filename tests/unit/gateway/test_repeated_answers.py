"""A backend's head that comes again is recognised by its bytes; what is made of it is what the parser would make."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http.repeated import MOST_UNLIKE
from gateway.upstream import connection as connection_module
from gateway.upstream.connection import Break, UpstreamConnection, UpstreamHead
from tests.support.transport import Transport


class _Pool:
    """What a connection knows of its pool."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.repeated: Any = None
        self.unlike = 0
        self.given_back = 0

    def give_back(self, connection: object) -> None:
        self.given_back += 1

    def lost(self, connection: object) -> None: ...


class _Forgetful(_Pool):
    """Remembers no head, so that everything is parsed."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, None if name == "repeated" else value)


class _Sink:
    def __init__(self) -> None:
        self.heads: list[UpstreamHead] = []
        self.seen: list[object] = []

    def on_head(self, head: UpstreamHead) -> None:
        self.heads.append(head)
        self.seen.append([head.status, head.headers, head.content_type, head.connection, head.encoded, head.delimited])

    def on_data(self, data: bytes) -> None:
        self.seen.append(data)

    def on_end(self) -> None:
        self.seen.append("end")

    def on_broken(self, reason: Break, detail: str) -> None:
        self.seen.append(reason)

    @property
    def over(self) -> bool:
        return self.seen != [] and (self.seen[-1] == "end" or isinstance(self.seen[-1], Break))


class _Backend:
    """Answers one request after the other, on one connection as long as that is kept."""

    def __init__(self, pool: _Pool | None = None) -> None:
        self.pool = pool or _Pool()
        self._connection: UpstreamConnection | None = None

    def answers(self, *pieces: bytes) -> _Sink:
        """What comes of an answer in these pieces. It closes the connection where that is not an end."""
        sink, connection = _Sink(), self._connection
        if connection is None or not connection.usable:
            connection = UpstreamConnection(self.pool)  # type: ignore[arg-type]
            connection.connection_made(Transport())
        connection.send(sink, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"")
        for piece in pieces:
            if connection.usable:
                connection.data_received(piece)
        if not sink.over:
            connection.connection_lost(None)
        self._connection = connection if sink.over and connection.usable else None
        return sink


def answer(
    body: bytes, *lines: bytes, length: bytes | None = None, status: bytes = b"200 OK", behind: bytes = b""
) -> bytes:
    fields = b"".join(b"%b\r\n" % line for line in (b"Date: now", *lines))
    size = b"%d" % len(body) if length is None else length
    head = b"HTTP/1.1 %b\r\n%bContent-Length: %b\r\nContent-Type: application/json\r\n\r\n" % (status, fields, size)
    return head + body + behind


async def test_a_head_that_comes_again_is_not_parsed_again() -> None:
    backend = _Backend()
    sinks = [backend.answers(answer(body)) for body in (b"{}", b"[1, 2, 3]", b"", b"null")]
    assert [sink.seen[1:] for sink in sinks] == [[b"{}", "end"], [b"[1, 2, 3]", "end"], ["end"], [b"null", "end"]]
    assert len({id(sink.heads[0]) for sink in sinks}) == 1
    assert backend.pool.given_back == 4


async def test_other_connections_to_the_endpoint_know_it_too() -> None:
    pool = _Pool()
    first, second = _Backend(pool).answers(answer(b"{}")), _Backend(pool).answers(answer(b"[]"))
    assert first.heads[0] is second.heads[0]


async def test_the_body_may_come_later_and_in_pieces() -> None:
    backend = _Backend()
    whole = answer(b"0123456789")
    backend.answers(whole)
    at = len(whole) - 10
    sink = backend.answers(whole[:at], whole[at : at + 3], whole[at + 3 :])
    assert sink.seen[1:] == [b"012", b"3456789", "end"]


async def test_a_body_that_ends_early_is_broken() -> None:
    backend = _Backend()
    whole = answer(b"0123456789")
    backend.answers(whole)
    assert backend.answers(whole[:-4]).seen[1:] == [b"012345", Break.LOST]


async def test_a_connection_with_something_behind_the_answer_is_not_used_again() -> None:
    backend = _Backend()
    backend.answers(answer(b"{}"))
    sink = backend.answers(answer(b"[]", behind=answer(b"another's")))
    assert sink.seen[1:] == [b"[]", "end"]
    assert backend.pool.given_back == 1
    assert backend.answers(answer(b"0")).seen[1:] == [b"0", "end"]


@pytest.mark.parametrize("length", [b"+2", b"2 2", b"0x2", b"-2", b"", b"2\n", b"2,2", b"2\0", b"9" * 23])
async def test_a_length_that_the_parser_refuses_is_refused(length: bytes) -> None:
    backend = _Backend()
    backend.answers(answer(b"{}"))
    assert backend.answers(answer(b"[]", length=length)).seen == [Break.GARBAGE]


@pytest.mark.parametrize(
    "told",
    [
        answer(b"{}", b"Content-Length: 2"),
        answer(b"{}", b"Transfer-Encoding: chunked"),
        answer(b"{}", b"X: a\r\n folded"),
        answer(b"{}", b"X: a\0b"),
        answer(b"{}", b"X:  two spaces"),
        answer(b"{}", b"X:none"),
        answer(b"{}", b"Connection: close"),
        answer(b"{}", status=b"204 No Content"),
        answer(b"{}", status=b"304 Not Modified"),
        answer(b"{}", status=b"500 Internal Server Error"),
        b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"{}"),
        b"\r\n" + answer(b"{}"),
        answer(b"{}").replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
async def test_what_could_be_read_in_another_way_is_always_parsed(told: bytes) -> None:
    backend = _Backend()
    heads = [head for _ in range(3) for head in backend.answers(told).heads]
    assert len(set(map(id, heads))) == len(heads)


async def test_a_backend_that_never_repeats_itself_is_seldom_expected_to() -> None:
    backend, remembered = _Backend(), set[int]()
    for number in range(connection_module._UNLIKE_ROUND):
        backend.answers(answer(b"{}", b"X-Request-ID: %d" % number))
        remembered.add(id(backend.pool.repeated))
    assert backend.pool.unlike == connection_module._UNLIKE_ROUND
    backend.answers(answer(b"{}"))
    assert backend.answers(answer(b"{}")).heads[0] is backend.pool.repeated.head
    assert len(remembered) <= MOST_UNLIKE + 2


_LINES = [
    b"Content-Length: 2",
    b"content-length: 3",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Content-Encoding: gzip",
    b"X: a\r\n folded",
    b"X: a\0b",
    b"X: \xff",
    b"X: a\nY: b",
    b"X:  spaces ",
    b"X:",
    b"Trailer: X",
    b"Upgrade: h2c",
]
_LENGTHS = [
    b"0",
    b"00",
    b"02",
    b"+2",
    b"-2",
    b" 2",
    b"2 ",
    b"2\t",
    b"0x2",
    b"2,2",
    b"2\r\nContent-Length: 2",
    b"",
    b"9" * 11,
]
_STATUSES = [
    b"100 Continue",
    b"101 Switching Protocols",
    b"204 No Content",
    b"304 Not Modified",
    b"404 Not Found",
    b"200",
]
_BODIES = [b"", b"{}", b"[1]", b"\r\n{}", b"HTTP/1.1 200 OK\r\n\r\n", b"2\r\n{}\r\n0\r\n\r\n"]
_BEHIND = [b"\r\n", b"\r", b"\n", b"\r\n\r\nH", b"x", b"\0", answer(b"{}"), b"0\r\n\r\n"]
_PLAIN = st.builds(answer, st.sampled_from(_BODIES))
_ODD = st.builds(
    lambda body, lines, length, status, behind, before: (
        before + answer(body, *lines, length=length, status=status, behind=behind)
    ),
    st.sampled_from(_BODIES),
    st.lists(st.sampled_from(_LINES), max_size=2),
    st.none() | st.sampled_from(_LENGTHS),
    st.just(b"200 OK") | st.sampled_from(_STATUSES),
    st.just(b"") | st.sampled_from(_BEHIND),
    st.just(b"")
    | st.sampled_from([b"\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 102 Processing\r\nX: y\r\n\r\n"]),
)


def _mutated(data: bytes, at: int, byte: bytes) -> bytes:
    at %= len(data) + 1
    return data[:at] + byte + data[at + 1 :]


_BROKEN = st.builds(
    _mutated, _PLAIN, st.integers(0, 200), st.sampled_from([b"", b"\0", b"\r", b"\n", b" ", b":", b"7", b"\r\n"])
)
_CUTS = st.lists(st.integers(0, 200), max_size=3)


def _pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    at = sorted(cut % (len(data) + 1) for cut in cuts)
    return [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]


def _read(answers: Sequence[Sequence[bytes]], forgetful: bool) -> tuple[list[list[object]], int]:
    """What comes of answers, one after the other, each in its pieces; how many left a connection to be used again."""

    async def read() -> tuple[list[list[object]], int]:
        backend = _Backend(_Forgetful() if forgetful else _Pool())
        seen = [backend.answers(*(piece for piece in pieces if piece)).seen for pieces in answers]
        return seen, backend.pool.given_back

    return asyncio.run(read())


@settings(max_examples=500)
@given(st.lists(st.tuples(_PLAIN | _PLAIN | _ODD | _BROKEN, st.just([]) | _CUTS), min_size=2, max_size=6))
def test_any_answers_in_any_pieces_are_read_as_the_parser_reads_them(told: list[tuple[bytes, list[int]]]) -> None:
    answers = [_pieces(data, cuts) for data, cuts in told]
    assert _read(answers, forgetful=False) == _read(answers, forgetful=True)
