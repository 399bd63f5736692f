"""The headers of requests and answers, on every sort of answer."""

from __future__ import annotations

import gzip
import json
import re
import uuid

import pytest

from tests.contract.stack import CHAT, before_echo, before_faults, request
from tests.support.echo import echo
from tests.support.gateway import running_gateway
from tests.support.raw_http import RawAnswer

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
PROXIED = ("x-seawall-backend", "x-seawall-model", "x-seawall-attempts", "x-seawall-fallback", "x-seawall-overhead-ms")
STREAM = CHAT | {"stream": True}


def is_uuid(value: str | None) -> bool:
    return value is not None and str(uuid.UUID(value)) == value


def id_of(answer: RawAnswer) -> str:
    """The correlation ID of an answer, which is there under both names."""
    found = answer.header("x-correlation-id")
    assert found is not None
    assert found == answer.header("x-request-id")
    return found


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x_correlation_id": "one", "x_request_id": "two", "traceparent": TRACEPARENT}, "one"),
        ({"x_request_id": "two", "traceparent": TRACEPARENT}, "two"),
        ({"traceparent": TRACEPARENT}, TRACE),
        ({"x_correlation_id": "Az09._:/+=-"}, "Az09._:/+=-"),
        ({"x_correlation_id": "x" * 128}, "x" * 128),
        ({"x_correlation_id": "x" * 129}, None),
        ({"x_correlation_id": "two words"}, None),
        ({"x_correlation_id": 'quote"'}, None),
        ({"x_correlation_id": "ümlaut"}, None),
        ({"x_correlation_id": "comma,"}, None),
        ({"traceparent": "00-" + "0" * 32 + "-b7ad6b7169203331-01"}, None),
        ({"traceparent": "nonsense"}, None),
        ({}, None),
    ],
)
async def test_where_the_correlation_id_comes_from_and_where_it_goes(
    headers: dict[str, str], expected: str | None
) -> None:
    async with before_faults() as (stack, backend):
        (answer,) = await stack.raw(request(body=CHAT, **headers))
        (seen,) = backend.log.to("/v1/chat/completions")
        stories = await stack.gateway.get("/requests/" + id_of(answer))
    found = id_of(answer)
    assert is_uuid(found) if expected is None else found == expected
    assert seen.headers["x-correlation-id"] == seen.headers["x-request-id"] == found
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", seen.headers["traceparent"])
    if headers.get("traceparent") == TRACEPARENT:
        assert TRACE in seen.headers["traceparent"]
    assert stories.json["correlation_id"] == found


@pytest.mark.parametrize(("model", "status"), [("tiny", 200), ("other", 404)])
async def test_anthropics_clients_find_the_id_where_they_look(model: str, status: int) -> None:
    body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]}
    async with before_faults() as (stack, _):
        for path, named in (("/v1/messages", True), ("/v1/chat/completions", False)):
            (answer,) = await stack.raw(request(path=path, body=body))
            assert answer.status == status
            assert answer.header("request-id") == (id_of(answer) if named else None)


GATEWAYS_OWN = [
    ("not_http", b"nonsense\r\n\r\n", 400),
    ("no_host", b"GET /v1/models HTTP/1.1\r\nX-Correlation-ID: mine\r\n\r\n", 400),
    ("unknown_path", request("GET", "/nowhere"), 404),
    ("unknown_model", request(body=CHAT | {"model": "other"}), 404),
    ("method", request("GET"), 405),
    ("options", request("OPTIONS"), 405),
    ("json", request(body=b"{"), 400),
    ("fields", request(body={"model": "tiny"}), 422),
    ("size", request(content_length="9999999"), 413),
    ("headers", request("GET", "/v1/models", x_filler="x" * 40_000), 431),
    ("late", request(content_length="10") + b"{", 408),
    ("models", request("GET", "/v1/models"), 200),
    ("livez", request("GET", "/livez"), 200),
    ("readyz", request("GET", "/readyz"), 200),
    ("health", request("GET", "/health"), 200),
    ("status", request("GET", "/status"), 200),
    ("errors", request("GET", "/errors"), 200),
    ("metrics", request("GET", "/metrics"), 200),
    ("openapi", request("GET", "/openapi.json"), 200),
    ("admin", request("GET", "/admin"), 200),
    ("ops_method", request("POST", "/health"), 405),
    ("no_story", request("GET", "/requests/nobody"), 404),
    ("forbidden", request("GET", "/status", x_forwarded_for="203.0.113.9"), 403),
]


@pytest.mark.parametrize(("name", "data", "status"), GATEWAYS_OWN)
async def test_every_answer_of_the_gateways_own_carries_its_id_and_time(name: str, data: bytes, status: int) -> None:
    given = data.replace(b"host: gateway\r\n", b"host: gateway\r\nx-correlation-id: mine\r\n")
    limits = "max_body: 64KiB, timeouts: {header: 200ms, body: 200ms}"
    async with before_faults(limits) as (stack, _):
        (made,), (kept,) = await stack.raw(data), await stack.raw(given)
    assert (made.status, kept.status) == (status, status)
    assert id_of(made) == "mine" if name == "no_host" else is_uuid(id_of(made))
    if given != data:
        assert id_of(kept) == "mine"
    for answer in (made, kept):
        if status >= 400:
            assert answer.error["correlation_id"] == id_of(answer)
            assert answer.header("x-should-retry") == "false"
        assert float(answer.header("x-seawall-overhead-ms") or "-1") >= 0
        assert not any(name in dict(answer.headers) for name in ("x-seawall-backend", "x-seawall-model"))


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
async def test_a_proxied_answer_says_how_it_came_about(body: dict[str, object]) -> None:
    async with before_faults() as (stack, _):
        (answer,) = await stack.raw(request(body=body))
    assert (answer.status, is_uuid(id_of(answer))) == (200, True)
    head = {name: answer.header(name) for name in PROXIED}
    assert float(head.pop("x-seawall-overhead-ms") or "") >= 0
    assert head == {
        "x-seawall-backend": "b",
        "x-seawall-model": "tiny",
        "x-seawall-attempts": "1",
        "x-seawall-fallback": "false",
    }
    for absent in ("x-seawall-degraded", "x-seawall-warning", "x-seawall-stale"):
        assert answer.header(absent) is None


async def test_a_backends_error_says_so_too() -> None:
    async with before_faults() as (stack, backend):
        backend.inject("context_length")
        (answer,) = await stack.raw(request(body=CHAT))
    assert answer.status == 400
    assert [answer.header(name) for name in PROXIED[:4]] == ["b", "tiny", "1", "false"]


async def test_time_in_backends_and_waits_is_not_overhead() -> None:
    async with before_faults() as (stack, backend):
        backend.first_token = 0.2
        (answer,) = await stack.raw(request(body=CHAT))
    assert float(answer.header("x-seawall-overhead-ms") or "") < 150


@pytest.mark.parametrize("value", ["0", "9", "5"])
async def test_a_priority_is_taken(value: str) -> None:
    async with before_faults() as (stack, _):
        (answer,) = await stack.raw(request(body=CHAT, x_priority=value))
    assert answer.status == 200


async def test_the_clients_deadline_is_kept_and_forwarded_reduced() -> None:
    async with before_faults() as (stack, backend):
        (answer,) = await stack.raw(request(body=CHAT, x_request_timeout="1.5"))
        (seen,) = backend.log.to("/v1/chat/completions")
        assert answer.status == 200
        assert 1.0 < float(seen.headers["x-request-timeout"]) < 1.5
        backend.inject("hang")
        (late,) = await stack.raw(request(body=CHAT, x_request_timeout="0.1"))
    assert (late.status, late.error["error_type"]) == (504, "deadline_exceeded")
    assert late.header("x-should-retry") == "false"


async def test_a_deadline_beyond_the_routes_own_is_forwarded_as_that() -> None:
    async with before_faults() as (stack, backend):
        (answer,) = await stack.raw(request(body=CHAT, x_request_timeout="86400"))
        (seen,) = backend.log.to("/v1/chat/completions")
    assert answer.status == 200
    assert 1.0 < float(seen.headers["x-request-timeout"]) < 2.0


async def test_a_session_stays_with_its_backend() -> None:
    async with echo() as one, echo() as two:
        backends = f"backends: {{one: {{url: '{one.url}'}}, two: {{url: '{two.url}'}}}}\n"
        routes = "routes: [{model: tiny, backends: [one, two]}]\npolicies: {default: {balance: session}}\n"
        async with running_gateway("server: {listen: '127.0.0.1:0'}\n" + backends + routes) as gateway:
            met: list[set[str]] = []
            for session in range(20):
                answers = [await gateway.chat(headers={"X-Session-ID": f"s{session}"}) for _ in range(3)]
                met.append({answer.headers["x-seawall-backend"] for answer in answers})
    assert all(len(backends) == 1 for backends in met)
    assert set().union(*met) == {"one", "two"}


async def test_what_the_client_sends_about_the_connection_or_itself_stays_here() -> None:
    secret = {"authorization": "Bearer client-key", "x_api_key": "client-key", "cookie": "a=b"}
    async with before_echo() as (stack, backend):
        await stack.raw(request(body=CHAT, **secret, x_custom="kept", te="trailers", proxy_authorization="x"))
        (seen,) = backend.seen
    assert seen.headers["x-custom"] == "kept"
    assert not seen.headers.keys() & {"authorization", "x-api-key", "te", "proxy-authorization"}
    assert "client-key" not in json.dumps(seen.headers)


async def test_a_compressed_body_is_read() -> None:
    data = gzip.compress(json.dumps(CHAT).encode())
    async with before_faults() as (stack, _):
        (answer,) = await stack.raw(request(body=data, content_encoding="gzip"))
        (bad,) = await stack.raw(request(body=b"{}", content_encoding="gzip"))
    assert answer.status == 200
    assert (bad.status, bad.error["error_type"]) == (400, "invalid_input")
