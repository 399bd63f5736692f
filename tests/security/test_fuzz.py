"""Parsers under arbitrary input: they say what they promise, or raise what they declare; nothing else."""

from __future__ import annotations

import asyncio
import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import ConfigError, load_text
from gateway.http.rules import is_host, origin_form
from gateway.paths import is_served
from gateway.relay.sse import FrameScanner, FrameTooLargeError, data_of, document_of, split
from gateway.validation.body import parse_body
from gateway.validation.content_encoding import decoded
from gateway.validation.errors import InvalidRequest
from tests.security.test_desync import get, post
from tests.support.hostile import FORM_PATHS, JSON_PATHS, form, part
from tests.support.transport import LIMITS, Transport

_PIECES = st.sampled_from(
    [b"data: {}", b"\n", b"\r", b"\n\n", b"\r\n\r\n", b"\r\r", b":", b"x", b'{"error"', b"\xff\0"]
)
STREAMS = st.lists(st.one_of(_PIECES, st.binary(max_size=20)), max_size=60)


@given(STREAMS)
def test_the_frame_scanner_loses_and_adds_nothing_and_gives_whole_frames_only(pieces: list[bytes]) -> None:
    scanner = FrameScanner()
    out = [scanner.feed(piece) for piece in pieces]
    assert b"".join(out) + scanner.rest == b"".join(pieces)
    assert all(frames.endswith((b"\n\n", b"\r\n\r\n", b"\r\r")) for frames in out if frames)
    for frame in split(b"".join(out)):
        document_of(frame)
        assert b"\n\n" not in data_of(frame)


@given(st.binary(max_size=400), st.lists(st.integers(1, 40), max_size=30))
def test_the_frame_scanner_gives_the_same_frames_however_a_stream_is_cut(stream: bytes, cuts: list[int]) -> None:
    whole, pieces = FrameScanner(), FrameScanner()
    at, out = 0, b""
    for cut in [*cuts, len(stream)]:
        out += pieces.feed(stream[at : at + cut])
        at += cut
    out += pieces.feed(stream[at:])
    assert out + pieces.rest == whole.feed(stream) + whole.rest
    with contextlib.suppress(FrameTooLargeError):
        pieces.feed(b"a" * (1 << 20))


_KEYS = [
    "server",
    "listen",
    "backends",
    "routes",
    "policies",
    "url",
    "kind",
    "model",
    "auth",
    "keys",
    "name",
    "key",
    "x",
]
_LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20))
_DOCUMENTS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(_KEYS), st.text(max_size=5)), inner, max_size=6),
    ),
    max_leaves=30,
)


@settings(max_examples=150)
@given(_DOCUMENTS)
def test_a_configuration_of_any_shape_loads_or_says_where_it_is_wrong(document: object) -> None:
    import yaml

    with contextlib.suppress(ConfigError):
        load_text(yaml.safe_dump(document, allow_unicode=True))


@settings(max_examples=200)
@given(
    st.one_of(
        st.text(max_size=200), st.lists(st.sampled_from([*"{}[]:,-#&*!|>'\"%@`\n ", "a", "${X", "${X:-"]), max_size=60)
    )
)
def test_a_configuration_of_any_text_loads_or_says_where_it_is_wrong(text: str | list[str]) -> None:
    with contextlib.suppress(ConfigError):
        load_text("".join(text))


@given(st.sampled_from([*JSON_PATHS, *FORM_PATHS, "/v1/other"]), st.text(max_size=40), st.binary(max_size=300))
def test_a_body_of_any_bytes_is_read_or_refused(path: str, content_type: str, body: bytes) -> None:
    for media in (content_type, "application/json", "multipart/form-data; boundary=bnd"):
        with contextlib.suppress(InvalidRequest):
            parse_body(path, media, body)


_NAMES = st.one_of(st.sampled_from(["model", "image", "file", "n", "stream", 'a"; name="model']), st.text(max_size=10))
_PARTS = st.lists(st.tuples(_NAMES, st.binary(max_size=60), st.one_of(st.none(), st.text(max_size=10))), max_size=8)


@given(st.sampled_from([*FORM_PATHS, "/v1/other"]), _PARTS, st.binary(max_size=30), st.integers(0, 400))
def test_a_form_of_any_parts_is_read_or_refused(
    path: str, parts: list[tuple[str, bytes, str | None]], junk: bytes, at: int
) -> None:
    with contextlib.suppress(UnicodeEncodeError):
        body = form(*(part(*each) for each in parts))
        for sent in (body, body[:at] + junk + body[at:], body[:at]):
            with contextlib.suppress(InvalidRequest):
                facts = parse_body(path, "multipart/form-data; boundary=bnd", sent)
                assert facts.body == sent


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate", "identity", "br", ""]))
def test_a_compressed_body_of_any_bytes_is_read_or_refused(body: bytes, coding: str) -> None:
    with contextlib.suppress(InvalidRequest):
        assert len(decoded(body, coding, 1000)) <= 1000


@given(st.text(max_size=60))
def test_no_path_is_served_that_climbs_or_hides_another(path: str) -> None:
    for prefix in ("", "/v1/", "/v1/a/"):
        if is_served(prefix + path) and not (prefix + path).startswith("/v1/models/"):
            assert not any(
                bad in (prefix + path).lower() for bad in ("//", "/../", "/./", "%2e", "%2f", "%00", "\\", "#")
            )


@given(st.binary(max_size=60))
def test_targets_and_hosts_of_any_bytes_are_judged_without_an_error(value: bytes) -> None:
    is_host(value)
    assert origin_form(b"http://host" + value) is not None
    assert origin_form(value) is not None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40), st.sampled_from([get(b"/v1/models"), post(b"Content-Length: 2", body=b"{}")])
        ),
        max_size=8,
    )
)
def test_a_connection_takes_any_bytes_in_any_pieces_and_keeps_its_accounts(pieces: list[bytes]) -> None:
    asyncio.run(_feed(pieces))


async def _feed(pieces: list[bytes]) -> None:
    from gateway.http.connection import ClientConnection
    from gateway.http.message import Request
    from gateway.http.server import Server

    async def handler(request: Request, connection: ClientConnection) -> None:
        connection.send(200, b"", b"ok")

    def refuser(request: Request, connection: ClientConnection, kind: object, message: str, status: int | None) -> None:
        connection.send(status or 400, b"", b"no")

    server = Server(LIMITS, handler, refuser, lambda connection, request: False)
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
    assert server.buffered == 0
    assert server.connections == 0
