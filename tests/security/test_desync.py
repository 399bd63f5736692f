"""Requests that two servers may read differently: each is refused, or read the one way that RFC 9112 leaves.

Every case is sent over a raw socket with a sentinel request behind it. A refused one gets a single 400 and the
connection closes: the sentinel is never answered. A good one is answered once, and then the sentinel is.
"""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from tests.integration.test_operations import config
from tests.support.fault_backend import FaultBackend
from tests.support.gateway import running_gateway
from tests.support.raw_http import talk

BODY = b'{"model":"tiny","messages":[{"role":"user","content":"count"}],"max_tokens":2}'
SIZE = len(BODY)
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)
SMUGGLED = b"POST /v1/smuggled?model=tiny HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
SENTINEL = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Correlation-ID: sentinel\r\nConnection: close\r\n\r\n"
LENGTH = b"Content-Length: %d\r\n" % SIZE
TE = b"Transfer-Encoding: chunked\r\n"


def post(*lines: bytes, body: bytes = BODY) -> bytes:
    """A chat request with these header lines, and whatever body they say."""
    return POST + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def chunks(body: bytes) -> bytes:
    """A chat request with this as its chunked body."""
    return POST + TE + b"\r\n" + body


def get(target: bytes, *lines: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    """A GET without a body."""
    return b"GET %b %b\r\n" % (target, version) + b"".join(line + b"\r\n" for line in (b"Host: x", *lines)) + b"\r\n"


FRAMING = {
    "CL.TE": post(b"Content-Length: 6", b"Transfer-Encoding: chunked", body=b"0\r\n\r\nG" + SMUGGLED),
    "TE.CL": post(b"Transfer-Encoding: chunked", b"Content-Length: 4", body=CHUNKED + SMUGGLED),
    "CL.0": post(b"Content-Length: 0", b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED),
    "equal lengths twice": post(LENGTH.strip(), LENGTH.strip()),
    "list of equal lengths": post(b"Content-Length: %d, %d" % (SIZE, SIZE)),
    "length with plus": post(b"Content-Length: +%d" % SIZE),
    "length with minus": post(b"Content-Length: -1"),
    "length in hex": post(b"Content-Length: 0x%x" % SIZE),
    "length with underscore": post(b"Content-Length: 1_0"),
    "length with a space inside": post(b"Content-Length: %d 0" % SIZE),
    "length with vertical tab": post(b"Content-Length: \x0b%d" % SIZE),
    "length beyond 64 bits": post(b"Content-Length: 99999999999999999999999999"),
    "length without a value": post(b"Content-Length:"),
    "length not a number": post(b"Content-Length: many"),
    "TE twice": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=CHUNKED + SMUGGLED),
    "TE chunked twice": post(b"Transfer-Encoding: chunked, chunked", body=CHUNKED),
    "TE xchunked": post(b"Transfer-Encoding: xchunked", body=CHUNKED + SMUGGLED),
    "TE identity": post(b"Transfer-Encoding: identity", LENGTH.strip()),
    "TE gzip, chunked": post(b"Transfer-Encoding: gzip, chunked", body=CHUNKED),
    "TE chunked, gzip": post(b"Transfer-Encoding: chunked, gzip", body=CHUNKED),
    "TE quoted": post(b'Transfer-Encoding: "chunked"', body=CHUNKED),
    "TE with parameter": post(b"Transfer-Encoding: chunked;a=b", body=CHUNKED),
    "TE with comma": post(b"Transfer-Encoding: ,chunked", body=CHUNKED),
    "TE with vertical tab": post(b"Transfer-Encoding: \x0bchunked", body=CHUNKED),
    "TE with NUL": post(b"Transfer-Encoding: chunked\0", body=CHUNKED),
    "TE before a space and colon": post(b"Transfer-Encoding : chunked", body=CHUNKED + SMUGGLED),
    "TE after a space": post(b" Transfer-Encoding: chunked", body=CHUNKED + SMUGGLED),
    "TE folded": post(b"Transfer-Encoding:\r\n chunked", body=CHUNKED + SMUGGLED),
    "TE empty beside CL": post(b"Transfer-Encoding:", LENGTH.strip()),
    "TE in HTTP/1.0": chunks(CHUNKED + SMUGGLED).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    "chunk size not hex": chunks(b"ZZ\r\nabc\r\n0\r\n\r\n" + SMUGGLED),
    "chunk size negative": chunks(b"-1\r\nabc\r\n0\r\n\r\n" + SMUGGLED),
    "chunk size with 0x": chunks(b"0x%x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)),
    "chunk size beyond 64 bits": chunks(b"ffffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
    "chunk size with a space": chunks(b"%x \r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)),
    "chunk size after a space": chunks(b" %x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)),
    "chunk size empty": chunks(b"\r\n%b\r\n0\r\n\r\n" % BODY),
    "chunk size ended by LF": chunks(b"%x\n%b\r\n0\r\n\r\n" % (SIZE, BODY)),
    "chunk ended by LF": chunks(b"%x\r\n%b\n0\r\n\r\n" % (SIZE, BODY)),
    "chunk ended by two bytes": chunks(b"%x\r\n%bXX0\r\n\r\n" % (SIZE, BODY)),
    "chunk longer than its size": chunks(b"3\r\n%b\r\n0\r\n\r\n" % BODY),
    "chunk extension with LF": chunks(b"%x;a\nb\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)),
    "chunk extension with CR": chunks(b"%x;a\rb\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)),
    "trailer that starts with a space": chunks(b"%x\r\n%b\r\n0\r\n X: y\r\n\r\n" % (SIZE, BODY)),
    "trailer with LF": chunks(b"%x\r\n%b\r\n0\r\nX: y\nZ: y\r\n\r\n" % (SIZE, BODY)),
}
LINES = {
    "folded header": post(b"X-A: a\r\n b", LENGTH.strip()),
    "header folded with a tab": post(b"X-A: a\r\n\tb", LENGTH.strip()),
    "LF ends every line": post(LENGTH.strip()).replace(b"\r\n", b"\n"),
    "LF ends one line": post(b"X-A: a\nContent-Length: 0", LENGTH.strip()),
    "CR inside a value": post(b"X-A: a\rX-B: b", LENGTH.strip()),
    "CR ends every line": post(LENGTH.strip()).replace(b"\r\n", b"\r"),
    "CR CR LF": POST + LENGTH.strip() + b"\r\r\n" + BODY,
    "space before the colon": post(b"X-A : a", LENGTH.strip()),
    "space before the length's colon": post(b"Content-Length : %d" % SIZE, body=BODY + SMUGGLED),
    "no colon": post(b"X-A", LENGTH.strip()),
    "no name": post(b": a", LENGTH.strip()),
    "NUL in a name": post(b"X\0A: a", LENGTH.strip()),
    "NUL in a value": post(b"X-A: a\0b", LENGTH.strip()),
    "control character in a value": post(b"X-A: a\x01b", LENGTH.strip()),
    "DEL in a value": post(b"X-A: a\x7fb", LENGTH.strip()),
    "name beyond ASCII": post(b"\xe2\x85\xa9-A: a", LENGTH.strip()),
    "no Host": get(b"/v1/models").replace(b"Host: x\r\n", b""),
    "two Hosts": get(b"/v1/models", b"Host: y"),
    "Host with a path": get(b"/v1/models").replace(b"Host: x", b"Host: x/../y"),
    "Host with a space": get(b"/v1/models").replace(b"Host: x", b"Host: x y"),
    "Host with a user": get(b"/v1/models").replace(b"Host: x", b"Host: a@b"),
    "Host with a list": get(b"/v1/models").replace(b"Host: x", b"Host: a,b"),
    "Host with a wrong port": get(b"/v1/models").replace(b"Host: x", b"Host: x:99999999"),
    "two Authorizations": get(b"/v1/models", b"Authorization: Bearer a", b"Authorization: Bearer b"),
    "two Content-Types": post(b"Content-Type: text/plain", LENGTH.strip()),
}
START_LINES = {
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2.0": get(b"/v1/models", version=b"HTTP/2.0"),
    "HTTP/1.2": get(b"/v1/models", version=b"HTTP/1.2"),
    "HTTP/9.9": get(b"/v1/models", version=b"HTTP/9.9"),
    "http/1.1": get(b"/v1/models", version=b"http/1.1"),
    "space behind the version": get(b"/v1/models", version=b"HTTP/1.1 "),
    "space in the target": get(b"/v1/models /x"),
    "tabs between": get(b"/v1/models").replace(b"GET ", b"GET\t", 1),
    "NUL in the target": get(b"/v1/a\0b"),
    "NUL in the query": get(b"/v1/a?model=tiny&a=\0"),
    "bytes beyond ASCII in the target": get(b"/v1/a\xff"),
    "fragment in the path": get(b"/v1/a#b?model=tiny"),
    "fragment in the query": get(b"/v1/a?model=tiny#b"),
    "no slash": get(b"v1/models"),
    "unknown method": get(b"/v1/models").replace(b"GET", b"FOO", 1),
    "method in lower case": get(b"/v1/models").replace(b"GET", b"get", 1),
    "CONNECT": b"CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\n\r\n",
    "TRACE": get(b"/v1/models").replace(b"GET", b"TRACE", 1),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "all bytes": bytes(range(256)),
    "WebSocket": get(b"/v1/realtime?model=tiny", b"Connection: Upgrade", b"Upgrade: websocket"),
}
GOOD = {
    "plain": post(LENGTH.strip()),
    "chunked": chunks(CHUNKED),
    "leading zeros in the length": post(b"Content-Length: 000%d" % SIZE),
    "chunked in capitals": post(b"Transfer-Encoding: CHUNKED", body=CHUNKED),
    "tab before the coding": post(b"Transfer-Encoding:\tchunked", body=CHUNKED),
    "chunk extension": chunks(b"%x;a=b\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)),
    "quoted chunk extension": chunks(b'%x;a="b;c"\r\n%b\r\n0\r\n\r\n' % (SIZE, BODY)),
    "chunks of a byte": chunks(b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"),
    "value beyond ASCII": post(b"X-A: \xff\xfe", LENGTH.strip()),
    "empty lines before": b"\r\n\r\n" + post(LENGTH.strip()),
    "trailer": chunks(b"%x\r\n%b\r\n0\r\nX-Trailer: a\r\n\r\n" % (SIZE, BODY)),
    "expects 100": post(b"Expect: 100-continue", LENGTH.strip()),
    "nominates its length": post(b"Connection: content-length", LENGTH.strip()),
    "offers HTTP/2": post(
        b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAA", LENGTH.strip()
    ),
    "absolute form": post(LENGTH.strip()).replace(b"POST /v1", b"POST http://evil.example/v1", 1),
}
PATHS = [
    b"//v1/models",
    b"/v1//a?model=tiny",
    b"/v1/../status",
    b"/v1/./a?model=tiny",
    b"/v1/a/..?model=tiny",
    b"/v1/%2e%2e/status?model=tiny",
    b"/v1/.%2E/a?model=tiny",
    b"/v1/a%2fb?model=tiny",
    b"/v1/a%5cb?model=tiny",
    b"/v1\\a",
    b"/v1/a;b?model=tiny",
    b"/v1/%252e%252e/a?model=tiny",
    b"/v1/a%00b?model=tiny",
    b"/v1/a%0d%0aX:y?model=tiny",
    b"/%76%31/models",
    b"/V1/models",
    b"/%73tatus",
    b"/status/",
    b"http://evil.example/../status",
]


async def outcomes(cases: dict[str, bytes]) -> tuple[dict[str, list[int]], list[str]]:
    """Statuses by case, and the paths that the backend was asked for; every refusal is checked for its form."""
    found: dict[str, list[int]] = {}
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        for name, data in cases.items():
            got = await talk(port, data + SENTINEL)
            found[name] = [answer.status for answer in got]
            for answer in got:
                assert answer.header("x-correlation-id"), name
                if answer.status != 200:
                    assert answer.error["error_type"] == "invalid_input", name
        assert gateway.gateway.server.buffered == 0
        probes = ("/health", "/metrics", "/load", "/v1/models")  # the gateway's own; it never passes these on
        asked = [seen.path for seen in backend.log if seen.path not in probes]
    return found, asked


@pytest.mark.parametrize("cases", [FRAMING, LINES, START_LINES], ids=["framing", "lines", "start lines"])
async def test_what_could_be_read_two_ways_is_refused_and_the_connection_closed(cases: dict[str, bytes]) -> None:
    found, asked = await outcomes(cases)
    assert found == {name: [400] for name in cases}
    assert asked == []
    print(f"{len(cases)} ambiguous requests: {len(cases)} refused, none reached the backend")


async def test_what_can_be_read_one_way_only_is_served_and_so_is_what_follows() -> None:
    found, asked = await outcomes(GOOD)
    assert found == {name: [200, 200] for name in GOOD}
    assert asked == ["/v1/chat/completions"] * len(GOOD)


async def test_paths_that_another_server_might_resolve_otherwise_are_not_served() -> None:
    found, asked = await outcomes({path.decode(): get(path) for path in PATHS})
    assert found == {path.decode(): [404, 200] for path in PATHS}
    assert asked == []


async def test_a_body_of_a_get_is_a_body_and_no_request() -> None:
    data = get(b"/v1/models", b"Content-Length: %d" % len(SMUGGLED)) + SMUGGLED
    found, asked = await outcomes({"get": data})
    assert found == {"get": [200, 200]}
    assert asked == []


async def test_every_split_of_a_request_over_packets_is_read_the_same() -> None:
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        data = chunks(b"%x;a=b\r\n%b\r\n0\r\nX-T: a\r\n\r\n" % (SIZE, BODY)) + SENTINEL
        for cut in range(1, len(data), 3):
            assert [a.status for a in await talk(port, data[:cut], data[cut:])] == [200, 200], cut


async def test_thousands_of_requests_in_one_write_are_answered_in_order_and_let_others_through() -> None:
    """The first waits for its backend, all behind it are answered at once."""
    many = 3000
    async with FaultBackend(per_token=0.02) as backend, running_gateway(config(backend)) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        numbered = [get(b"/v1/models/m%d" % number) for number in range(many)]
        flood = asyncio.create_task(talk(port, post(LENGTH.strip()) + b"".join(numbered) + SENTINEL, timeout=60))
        await backend.log.wait_for_state("running")
        most = 0.0
        while not flood.done():
            started = monotonic()
            assert (await gateway.get("/livez")).status == 200
            most = max(most, monotonic() - started)
        answers = await flood
        assert [answer.status for answer in answers] == [200] + [404] * many + [200]
        assert [f"m{number}" in answer.body.decode() for number, answer in enumerate(answers[1:-1])] == [True] * many
        assert most < 1.0
        assert gateway.gateway.services.in_flight == 0


async def test_trailers_change_nothing_of_what_the_head_said() -> None:
    trailers = b"Authorization: Bearer b\r\nX-Correlation-ID: evil\r\nX-Custom: evil\r\nConnection: x-own\r\n"
    data = POST + TE + b"X-Correlation-ID: good\r\nX-Own: kept\r\n\r\n"
    data += b"%x\r\n%b\r\n0\r\n%b\r\n" % (SIZE, BODY, trailers)
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        answer, _ = await talk(port, data + SENTINEL)
        assert (answer.status, answer.header("x-correlation-id")) == (200, "good")
        (seen,) = backend.log.to("/v1/chat/completions")
        assert seen.headers["x-own"] == "kept"
        assert not {"authorization", "x-custom", "trailer", "transfer-encoding"} & seen.headers.keys()
        assert seen.headers["content-length"] == str(SIZE)


async def test_hop_by_hop_headers_and_nominated_ones_stay_here() -> None:
    hop = {
        b"Connection": b"x-secret, Keep-Alive",
        b"X-Secret": b"1",
        b"Keep-Alive": b"timeout=5",
        b"TE": b"trailers",
        b"Trailer": b"X-T",
        b"Proxy-Authorization": b"Basic eA==",
        b"Proxy-Connection": b"keep-alive",
        b"X-Kept": b"1",
    }
    data = post(*(b"%b: %b" % item for item in hop.items()), LENGTH.strip())
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        assert [answer.status for answer in await talk(port, data + SENTINEL)] == [200, 200]
        (seen,) = backend.log.to("/v1/chat/completions")
        assert seen.headers.keys() & {name.decode().lower() for name in hop} == {"x-kept"}


async def test_an_http_1_0_client_gets_a_stream_that_ends_with_the_connection() -> None:
    body = BODY[:-1] + b',"stream":true}'
    data = b"POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        (answer,) = await talk(port, data + body)
        assert answer.header("transfer-encoding") is None
        assert answer.header("connection") == "close"
        assert answer.body.endswith(b"data: [DONE]\n\n")
