"""Backends are not trusted either: what they say amiss is found out, bounded, and never passed on as an answer."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import pytest

from gateway.relay.sse import FrameScanner, FrameTooLargeError
from tests.security.test_desync import BODY, SENTINEL, post
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.raw_http import RawAnswer, talk
from tests.support.rogue import RogueBackend

ANSWER = (
    b'{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
)
SIZE = len(ANSWER)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE, ANSWER)
FRAME = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
LAST = b'data: {"id":"x","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + CHUNKED + b"\r\n"


def says(lines: bytes = b"", body: bytes = ANSWER, *, status: bytes = b"200 OK", length: bool = True) -> bytes:
    """An answer with these header lines."""
    stated = b"Content-Length: %d\r\n" % len(body) if length else b""
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%b%b\r\n%b" % (status, lines, stated, body)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


POLICY = (
    "circuit_breaker: {min_requests: 10000, consecutive_failures: 10000}, retry: {attempts: 1}, "
    "timeout: {first_token: 2s, idle: 2s, total: 6s}"
)


@asynccontextmanager
async def behind(rogue: RogueBackend) -> AsyncIterator[tuple[RunningGateway, int]]:
    """A gateway with the rogue as its only backend, and its port."""
    settings = (
        f"server: {{listen: '127.0.0.1:0'}}\nbackends: {{b0: {{url: '{rogue.url}', kind: vllm}}}}\n"
        f"routes: [{{model: tiny, backends: [b0], policy: p}}]\npolicies: {{p: {{{POLICY}}}}}"
    )
    async with running_gateway(settings) as gateway:
        yield gateway, int(gateway.url.rpartition(":")[2])


async def ask(port: int, *, stream: bool = False) -> RawAnswer:
    """The answer to a chat request; a sentinel behind it shows that the client's connection stays in step."""
    body = BODY[:-1] + b',"stream":true}' if stream else BODY
    found = await talk(port, post(b"Content-Length: %d" % len(body), body=body) + SENTINEL)
    assert [answer.status for answer in found[1:]] in ([], [200])
    assert found[1:] or found[0].header("connection") == "close" or stream
    return found[0]


AMISS = {
    "CR in a header": says(b"X-A: a\rSet-Evil: 1\r\n"),
    "LF in a header": says(b"X-A: a\nSet-Evil: 1\r\n"),
    "folded header": says(b"X-A: a\r\n b\r\n"),
    "folded length": says(b"X-A: a\r\n Content-Length: 5\r\n"),
    "NUL in a header": says(b"X-A: a\0b\r\n"),
    "control character in a header": says(b"X-A: a\x01b\r\n"),
    "two lengths": says(b"Content-Length: 3\r\n"),
    "one length twice": says(b"Content-Length: %d\r\n" % SIZE),
    "length and chunked": says(CHUNKED),
    "negative length": says(b"Content-Length: -1\r\n", length=False),
    "length not a number": says(b"Content-Length: 1_0\r\n", length=False),
    "length too long": says(b"Content-Length: %d\r\n" % (SIZE + 10), length=False),
    "length too short": says(b"Content-Length: %d\r\n" % (SIZE - 10), length=False),
    "unknown coding": says(b"Transfer-Encoding: xchunked\r\n", length=False),
    "gzip, chunked": says(b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS, length=False),
    "bad chunk size": says(CHUNKED, b"ZZ\r\n" + ANSWER + b"\r\n0\r\n\r\n", length=False),
    "chunks ended by LF": says(CHUNKED, CHUNKS.replace(b"\r\n", b"\n"), length=False),
    "no last chunk": says(CHUNKED, chunk(ANSWER), length=False),
    "endless header": says(b"X-A: " + b"a" * 300_000),
    "endless headers": says(b"X-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 5000),
    "endless reason": says(status=b"200 " + b"a" * 300_000),
    "endless 1xx": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 50_000 + says(),
    "endless trailers": says(CHUNKED, chunk(ANSWER) + b"0\r\nX-T: " + b"a" * 300_000, length=False),
    "endless chunk extension": says(CHUNKED, b"%x;" % SIZE + b"a" * 300_000, length=False),
    "status 999": says(status=b"999 Odd"),
    "status 000": says(status=b"000 Odd"),
    "status 99": says(status=b"99 Odd"),
    "304": says(status=b"304 Not Modified", body=b"", length=False),
    "body without a head": ANSWER,
    "something else": b"SSH-2.0-OpenSSH_9.6\r\n",
    "nested too deep": says(body=b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "HTML": says(body=b"<html>hello</html>"),
    "half an answer": says(body=ANSWER[:50]),
    "switches protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nevil",
    "nothing": b"",
}


@pytest.mark.parametrize("case", AMISS)
async def test_an_answer_that_is_amiss_becomes_a_typed_error(case: str) -> None:
    async with RogueBackend() as rogue, behind(rogue) as (_, port):
        rogue.says = AMISS[case]
        answer = await ask(port)
        assert answer.status == 502
        assert answer.error["error_type"] in ("generation_failed", "backend_unreachable")
        assert answer.error["is_retryable"] is True
        assert b"evil" not in answer.body.lower()


REDIRECTS = [b"301 M", b"302 Found", b"303 S", b"307 T", b"308 P"]


@pytest.mark.parametrize("status", REDIRECTS, ids=lambda status: status[:3].decode())
async def test_a_backends_redirect_is_never_followed_nor_passed_on(status: bytes) -> None:
    async with RogueBackend() as elsewhere, RogueBackend() as rogue, behind(rogue) as (_, port):
        elsewhere.says = says()
        rogue.says = says(b"Location: %b/v1/chat/completions\r\n" % elsewhere.url.encode(), status=status)
        answer = await ask(port)
        assert (answer.status, answer.header("location")) == (502, None)
        assert (rogue.asked, elsewhere.asked) == (1, 0)


OURS = (
    b"Set-Cookie: a=b\r\nServer: evil\r\nAlt-Svc: h2=evil\r\nStrict-Transport-Security: max-age=9\r\n"
    b"X-Seawall-Backend: evil\r\nX-Correlation-ID: evil\r\nX-Request-ID: evil\r\nX-Should-Retry: evil\r\n"
    b"X-RateLimit-Remaining-Requests: 0\r\nConnection: X-Nominated\r\nX-Nominated: evil\r\nKeep-Alive: evil\r\n"
    b"Proxy-Authenticate: evil\r\nUpgrade: evil\r\nTrailer: evil\r\nX-Kept: good\r\n"
)


async def test_what_is_ours_to_say_or_between_two_hops_is_not_passed_on() -> None:
    async with RogueBackend() as rogue, behind(rogue) as (_, port):
        rogue.says = says(OURS)
        answer = await ask(port)
        assert (answer.status, answer.header("x-kept"), answer.header("x-seawall-backend")) == (200, "good", "b0")
        assert not [value for _, value in answer.headers if "evil" in value]
        assert not {"set-cookie", "x-ratelimit-remaining-requests"} & {name for name, _ in answer.headers}


async def test_a_backends_trailers_do_not_become_headers() -> None:
    async with RogueBackend() as rogue, behind(rogue) as (_, port):
        trailers = b"X-Evil: 1\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n"
        rogue.says = says(CHUNKED, chunk(ANSWER) + b"0\r\n" + trailers + b"\r\n", length=False)
        answer = await ask(port)
        assert (answer.status, answer.body) == (200, ANSWER)
        assert answer.header("content-type") == "application/json"
        assert not {"x-evil", "content-encoding"} & {name for name, _ in answer.headers}


async def test_early_hints_and_other_informational_answers_are_passed_over() -> None:
    async with RogueBackend() as rogue, behind(rogue) as (_, port):
        rogue.says = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </evil>\r\n\r\n" + says()
        answer = await ask(port)
        assert (answer.status, answer.body, answer.header("link")) == (200, ANSWER, None)


async def test_a_second_answer_behind_the_first_is_never_given_to_the_next_client() -> None:
    async with RogueBackend() as rogue, behind(rogue) as (_, port):
        rogue.keeps = True
        rogue.says = says() + says(b"X-Poison: evil\r\n")
        for _ in range(5):
            answer = await ask(port)
            assert (answer.status, answer.header("x-poison")) == (200, None)


async def test_an_answer_before_there_was_a_request_puts_no_later_one_out_of_step() -> None:
    async with RogueBackend() as rogue, behind(rogue) as (_, port):
        rogue.keeps = True
        rogue.unasked = says(b"X-Early: 1\r\n")
        rogue.says = says(b"X-Late: 1\r\n")  # on such a connection this would answer the next client
        before = rogue.connections
        for _ in range(5):
            answer = await ask(port)
            assert answer.header("x-late") is None
        assert rogue.connections - before >= 5, "a connection that was out of step was used again"


async def test_a_compressed_answer_is_not_opened() -> None:
    """Seawall asks for none. A bomb in one costs it nothing, and reaches the client as it came, marked as such."""
    bomb = gzip.compress(bytes(200 << 20), compresslevel=1)
    async with RogueBackend() as rogue, behind(rogue) as (_, port):
        rogue.says = says(b"Content-Encoding: gzip\r\n", bomb)
        answer = await ask(port)
        assert (answer.status, answer.header("content-encoding"), answer.body) == (200, "gzip", bomb)


BROKEN_STREAMS = {
    "a frame without end": [STREAM, chunk(FRAME), *[chunk(b"a" * 65536)] * 40],
    "a line without end from the start": [STREAM, *[chunk(b"a" * 65536)] * 40],
    "bad chunk": [STREAM, chunk(FRAME), b"ZZ\r\n"],
    "trailers without end": [STREAM, chunk(FRAME), b"0\r\nX-T: ", *[b"a" * 65536] * 40],
    "chunk extension without end": [STREAM, chunk(FRAME), b"1;", *[b"a" * 65536] * 40],
    "cut": [STREAM, chunk(FRAME)],
    "ended early": [STREAM, chunk(FRAME), b"0\r\n\r\n"],
    "an error and then its end": [STREAM, chunk(FRAME + b'data: {"error":{"message":"x","code":500}}\n\n' + LAST)],
    "no JSON": [STREAM, chunk(b"data: \0\xff\n\n" * 3), b"0\r\n\r\n"],
}


@pytest.mark.parametrize("case", BROKEN_STREAMS)
async def test_a_stream_that_is_amiss_ends_with_a_typed_error(case: str) -> None:
    async with RogueBackend() as rogue, behind(rogue) as (_, port):
        rogue.says = BROKEN_STREAMS[case]
        answer = await ask(port, stream=True)
        assert b"[DONE]" not in answer.body
        assert b'"error_type":"generation_failed"' in answer.body


async def test_a_client_that_waits_on_an_endless_stream_costs_bounded_memory() -> None:
    async with RogueBackend() as rogue, behind(rogue) as (_, port):
        rogue.says = [STREAM, *[chunk(FRAME * 200)] * 3000]
        body = BODY[:-1] + b',"stream":true}'
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        tracemalloc.start()
        writer.write(post(b"Content-Length: %d" % len(body), body=body))
        await reader.readline()
        sent = -1
        while sent != rogue.sent:  # until the backend is held back: the client reads no more
            sent = rogue.sent
            await asyncio.sleep(0.1)
        assert sent < 30 << 20
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        writer.transport.abort()
        assert peak < 20 << 20


def test_a_frame_in_small_pieces_takes_time_in_proportion_to_its_size() -> None:
    def seconds(pieces: int) -> float:
        scanner = FrameScanner()
        started = monotonic()
        for _ in range(pieces):
            scanner.feed(b"a" * 16)
        return monotonic() - started

    seconds(1000)
    assert seconds(40_000) < 40 * seconds(4_000) + 0.5


def test_a_frame_without_end_is_given_up_at_a_megabyte() -> None:
    scanner = FrameScanner()
    for _ in range(16):
        assert scanner.feed(b"a" * 65536) == b""
    with pytest.raises(FrameTooLargeError):
        scanner.feed(b"a")
