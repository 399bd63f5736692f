"""The paths that are served, what reaches a backend of a request, and what any HTTP client may do."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from tests.contract.stack import CHAT, before_echo, before_faults, request

MESSAGES = CHAT["messages"]
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c4944415408d763f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
WAV = b"RIFF\x2c\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\x08\0\0\0" + bytes(8)

JSON_PATHS: dict[str, Any] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "tiny", "prompt": "x"},
    "/v1/embeddings": {"model": "tiny", "input": "x"},
    "/v1/responses": {"model": "tiny", "input": "x"},
    "/v1/messages": {"model": "tiny", "messages": MESSAGES, "max_tokens": 8},
    "/v1/rerank": {"model": "tiny", "query": "x", "documents": ["a", "b"]},
    "/v1/score": {"model": "tiny", "text_1": "a", "text_2": "b"},
    "/v1/audio/speech": {"model": "tiny", "input": "x", "voice": "v"},
    "/v1/images/generations": {"model": "picture", "prompt": "x"},
    "/tokenize": {"model": "tiny", "prompt": "x"},
    "/detokenize": {"model": "tiny", "tokens": [1, 2]},
    "/v1/anything/else": {"model": "tiny", "what": 1},
}
UPLOADS = {
    "/v1/audio/transcriptions": ("tiny", "file", "a.wav", WAV, {}),
    "/v1/audio/translations": ("tiny", "file", "a.wav", WAV, {}),
    "/v1/images/edits": ("picture", "image", "a.png", PNG, {"prompt": "x"}),
    "/v1/images/variations": ("picture", "image", "a.png", PNG, {}),
}


@pytest.mark.parametrize("path", JSON_PATHS)
async def test_a_json_request_reaches_the_backend_as_it_came_with_its_query(path: str) -> None:
    body = json.dumps(JSON_PATHS[path] | {"an_unknown_field": [1, None]}, indent=1).encode()
    async with before_echo() as (stack, backend):
        backend.answers["/v1/audio/speech"] = b"ID3 sound"
        (answer,) = await stack.raw(request(path=path + "?version=1&x=%20y", body=body))
        (seen,) = backend.seen
    assert answer.status == 200
    assert answer.body == (b"ID3 sound" if "speech" in path else b'{"path":"%b"}' % path.encode())
    assert (seen.method, seen.target, seen.body) == ("POST", path + "?version=1&x=%20y", body)


@pytest.mark.parametrize("path", UPLOADS)
async def test_an_upload_reaches_the_backend_as_it_came(path: str) -> None:
    model, field, name, data, more = UPLOADS[path]
    async with before_echo() as (stack, backend):
        form = aiohttp.FormData({"model": model, **more})
        form.add_field(field, data, filename=name, content_type="application/octet-stream")
        async with stack.gateway.session.post(stack.gateway.url + path, data=form) as answer:
            assert answer.status == 200, await answer.text()
        (seen,) = backend.seen
    assert data in seen.body
    assert seen.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert int(seen.headers["content-length"]) == len(seen.body)


async def test_an_upload_is_judged_by_its_content_not_its_name() -> None:
    async with before_echo() as (stack, backend):
        for name, data in (("a.png", b"GIF or what"), ("a.png", b""), ("a.png", b"<svg></svg>")):
            form = aiohttp.FormData({"model": "picture", "prompt": "x"})
            form.add_field("image", data, filename=name, content_type="image/png")
            async with stack.gateway.session.post(stack.gateway.url + "/v1/images/edits", data=form) as answer:
                assert (answer.status, (await answer.json())["error"]["error_type"]) == (422, "validation_error")
    assert backend.seen == []


async def test_other_paths_and_methods_under_v1_are_passed_through_to_the_only_or_named_route() -> None:
    async with before_echo() as (stack, backend):
        (named,) = await stack.raw(request("GET", "/v1/files/abc?model=tiny"))
        (deleted,) = await stack.raw(request("DELETE", "/v1/files/abc?model=tiny"))
        assert (named.status, deleted.status) == (200, 200)
        assert [(seen.method, seen.target) for seen in backend.seen] == [
            ("GET", "/v1/files/abc?model=tiny"),
            ("DELETE", "/v1/files/abc?model=tiny"),
        ]


async def test_models_are_the_routes() -> None:
    async with before_faults() as (stack, _):
        listed = (await stack.gateway.get("/v1/models")).json
        one = (await stack.gateway.get("/v1/models/tiny")).json
        missing = await stack.gateway.get("/v1/models/tin")
    assert (listed["object"], [model["id"] for model in listed["data"]]) == ("list", ["tiny", "picture"])
    assert (one["id"], one["object"]) == ("tiny", "model")
    assert {"id", "object", "created", "owned_by"} <= one.keys()
    assert (missing.status, missing.error["details"]["suggestion"]) == (404, "tiny")


async def test_the_operations_paths_have_the_fields_of_the_contract() -> None:
    async with before_faults() as (stack, _):
        gateway = stack.gateway
        await gateway.chat(model="nope")
        await gateway.chat(headers={"X-Correlation-ID": "a/b:c+d=e"})
        assert (await gateway.get("/livez")).status == (await gateway.get("/readyz")).status == 200
        health = (await gateway.get("/health")).json
        status = (await gateway.get("/status")).json
        errors = (await gateway.get("/errors")).json
        story = (await gateway.get("/requests/a/b:c+d=e")).json
        metrics = await gateway.get("/metrics")
        admin = await gateway.get("/admin")
    assert health.keys() == {"overall_status", "checks", "critical_failures", "timestamp"}
    assert health["overall_status"] in ("healthy", "degraded", "critical")
    assert health["critical_failures"] == []
    assert {"health", "errors", "endpoints", "uptime", "version"} <= status.keys()
    assert status["endpoints"]["b"]["breaker"] == "closed"
    assert status["health"].keys() == health.keys()
    assert (errors["total_errors"], errors["by_type"]) == (1, {"model_not_found": 1})
    assert {"error_rate_per_minute", "error_rate_per_hour", "spikes"} <= errors.keys()
    assert errors["top_patterns"][0]["pattern"] == "model_not_found:chat"
    assert [attempt["backend"] for attempt in story["attempts"]] == ["b"]
    assert metrics.headers["content-type"].startswith("text/plain")
    assert b"seawall_requests_total" in metrics.body
    assert admin.headers["content-type"].startswith("text/html")


async def test_the_openapi_document_names_every_path() -> None:
    async with before_faults() as (stack, _):
        document = (await stack.gateway.get("/openapi.json")).json
    assert document["openapi"].startswith("3.")
    paths = document["paths"].keys()
    assert paths >= (JSON_PATHS.keys() - {"/v1/anything/else"}) | UPLOADS.keys() | {"/generate", "/generate_image"}
    assert paths >= {"/livez", "/readyz", "/health", "/status", "/errors", "/metrics", "/admin", "/openapi.json"}
    assert paths >= {"/requests/{correlation_id}", "/v1/models", "/v1/models/{model}"}


async def test_health_is_answered_while_every_backend_is_down_and_says_so() -> None:
    more = "policies: {default: {admission: {max_wait: 0s}}}"
    async with before_faults(more=more) as (stack, backend):
        await backend.kill()
        for _ in range(6):
            await stack.gateway.chat()
        health, ready = await stack.gateway.get("/health"), await stack.gateway.get("/readyz")
        live = await stack.gateway.get("/livez")
    assert (health.status, ready.status, live.status) == (503, 503, 200)
    assert health.json["overall_status"] == "critical"
    assert health.json["critical_failures"] == ["backends"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("HEAD", "/v1/chat/completions", "POST"),
        ("OPTIONS", "/v1/chat/completions", "POST"),
        ("DELETE", "/generate", "POST"),
        ("PUT", "/v1/models", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("OPTIONS", "/metrics", "GET, HEAD"),
    ],
)
async def test_another_method_is_405_and_says_which_are_taken(method: str, path: str, allow: str) -> None:
    async with (
        before_faults() as (stack, _),
        stack.gateway.session.request(method, stack.gateway.url + path) as answer,
    ):
        assert (answer.status, answer.headers["Allow"]) == (405, allow)
        assert answer.headers["X-Correlation-ID"]
        body = await answer.read()
    assert (body == b"") is (method == "HEAD")


async def test_head_answers_with_the_headers_of_get() -> None:
    async with before_faults() as (stack, _):
        for path in ("/livez", "/health", "/v1/models", "/metrics"):
            async with stack.gateway.session.head(stack.gateway.url + path) as answer:
                assert answer.status == 200
                assert int(answer.headers["Content-Length"]) > 0
                assert await answer.read() == b""


async def test_a_connection_is_kept_and_requests_may_be_sent_ahead() -> None:
    keep = request(body=CHAT, connection="")
    async with before_faults() as (stack, _):
        found = await stack.raw(keep + keep + request("GET", "/nowhere", connection="") + request(body=CHAT))
    assert [answer.status for answer in found] == [200, 200, 404, 200]
    assert [answer.header("connection") for answer in found] == [None, None, None, "close"]
    assert len({answer.header("x-correlation-id") for answer in found}) == 4


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_of_http_1_0_gets_an_answer_that_ends_with_the_connection(stream: bool) -> None:
    async with before_faults() as (stack, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        writer.write(request(body=CHAT | {"stream": stream}, version="1.0", connection="", host=""))
        received = await reader.read()
        writer.close()
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"transfer-encoding" not in head
    assert body.endswith(b"data: [DONE]\n\n") if stream else json.loads(body)["choices"]


async def test_a_client_that_waits_for_100_continue_gets_it_and_one_whose_body_is_too_large_does_not() -> None:
    async with before_faults("max_body: 64KiB") as (stack, _):
        head, _, body = request(body=CHAT, expect="100-continue").partition(b"\r\n\r\n")
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        writer.write(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        writer.close()
        (refused,) = await stack.raw(request(expect="100-continue", content_length="70000"))
    assert refused.status == 413


async def test_bodies_of_megabytes_go_through_whole_by_length_and_in_chunks() -> None:
    body = json.dumps(CHAT | {"padding": "x" * (3 << 20)}).encode()
    parts = (body[start : start + 65536] for start in range(0, len(body), 65536))
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    async with before_echo() as (stack, backend):
        (whole,) = await stack.raw(request(body=body))
        (chunked,) = await stack.raw(request(content_length="", transfer_encoding="chunked") + chunks + b"0\r\n\r\n")
        bodies = [seen.body for seen in backend.seen]
    assert (whole.status, chunked.status) == (200, 200)
    assert bodies == [body, body]


async def test_answers_of_megabytes_come_back_whole() -> None:
    async with before_echo() as (stack, backend):
        backend.answers["/v1/embeddings"] = {"data": ["x" * (8 << 20)]}
        (answer,) = await stack.raw(request(path="/v1/embeddings", body={"model": "tiny", "input": "x"}))
    assert (answer.status, len(answer.body)) == (200, (8 << 20) + 13)
