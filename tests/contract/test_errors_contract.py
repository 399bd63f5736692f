"""The error table, row by row: what the client is told, whether another backend is asked, whom the breaker blames."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from tests.contract.stack import CHAT, Stack, before_faults, config, request
from tests.support.counting_model import count_text
from tests.support.fault_backend import FaultBackend
from tests.support.faults import Fault, FaultKind, error_body, fault
from tests.support.gateway import Answer, RunningGateway, running_gateway
from tests.support.waiting import eventually

FIELDS = {"error_type", "is_retryable", "details", "correlation_id", "timestamp"}
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
FILTERED = b'{"error":{"message":"The response was filtered.","type":null,"param":"prompt","code":"content_filter"}}'
TRACE = error_body('Traceback (most recent call last):\n  File "/opt/x.py", line 3\nRuntimeError: sk-secret', "E", 500)
TIMES = "timeout: {connect: 300ms, first_token: 300ms, idle: 300ms, total: 2s}, admission: {max_wait: 0s}"


@dataclass(frozen=True)
class Row:
    """One row of the table that a backend can bring about. `elsewhere`: at its own tier, `next_tier`: at the next."""

    error_type: str
    fault: Fault
    status: int
    type: str
    retryable: bool
    elsewhere: bool
    blamed: bool
    exception: type[openai.APIStatusError]
    next_tier: bool = True


def respond(status: int, body: bytes) -> Fault:
    return Fault(FaultKind.RESPOND, status=status, body=body)


BAD, SERVER = "invalid_request_error", "server_error"
_400, _404, _5XX = openai.BadRequestError, openai.NotFoundError, openai.InternalServerError
ROWS = [
    Row(
        "invalid_input",
        respond(400, error_body("bad top_k", "BadRequestError", 400)),
        400,
        BAD,
        False,
        False,
        False,
        _400,
        False,
    ),
    Row("context_length_exceeded", fault("context_length"), 400, BAD, False, False, False, _400, False),
    Row("content_filtered", respond(400, FILTERED), 400, BAD, False, False, False, _400, False),
    Row("model_not_found", fault("model_not_found"), 404, BAD, False, False, True, _404),
    Row(
        "payload_too_large",
        respond(413, b'{"detail":"too large"}'),
        413,
        BAD,
        False,
        False,
        False,
        openai.APIStatusError,
        False,
    ),
    Row("generation_failed", fault("internal_error"), 502, SERVER, True, True, True, _5XX),
    Row("generation_failed", fault("html_200"), 502, SERVER, True, True, True, _5XX),
    Row("generation_failed", fault("half_json"), 502, SERVER, True, True, True, _5XX),
    Row("generation_failed", fault("engine_dead"), 502, SERVER, True, True, True, _5XX),
    Row("generation_failed", respond(500, TRACE), 502, SERVER, True, True, True, _5XX),
    Row("backend_unreachable", fault("kill"), 502, SERVER, True, True, True, _5XX),
    Row("model_overloaded", fault("overloaded"), 503, SERVER, True, True, False, _5XX),
    Row("model_overloaded", fault("rate_limited"), 503, SERVER, True, True, False, _5XX),
    Row("model_loading", fault("loading"), 503, SERVER, True, True, False, _5XX),
    Row("inference_timeout", fault("hang"), 504, SERVER, True, True, True, _5XX),
    Row("out_of_memory", fault("oom"), 507, SERVER, False, True, True, _5XX),
    Row(
        "model_loading_failed", respond(503, b'{"error":"model failed to load"}'), 503, SERVER, False, True, True, _5XX
    ),
]
IDS = [f"{number}-{row.error_type}" for number, row in enumerate(ROWS)]


@asynccontextmanager
async def two(tiers: str, policy: str = "") -> AsyncIterator[tuple[RunningGateway, FaultBackend, FaultBackend]]:
    """A gateway before two servers, of which the first is to fail."""
    async with FaultBackend() as bad, FaultBackend() as good:
        text = (
            "server: {listen: '127.0.0.1:0'}\n"
            f"backends: {{bad: {{url: '{bad.url}', kind: vllm}}, good: {{url: '{good.url}', kind: vllm}}}}\n"
            f"routes: [{{model: tiny, {tiers}}}]\n"
            f"policies: {{default: {{balance: round_robin, {TIMES}, {policy}}}}}\n"
        )
        async with running_gateway(text) as gateway:
            yield gateway, bad, good


BRITTLE = "retry: {attempts: 1}, oom: {attempts: 0}, circuit_breaker: {consecutive_failures: 1}"
ONE_FAILURE_OPENS = f"policies: {{default: {{{TIMES}, {BRITTLE}}}}}"


@pytest.mark.parametrize("row", ROWS, ids=IDS)
async def test_what_the_client_is_told_and_whom_the_breaker_blames(row: Row) -> None:
    async with before_faults(more=ONE_FAILURE_OPENS) as (stack, backend):
        gateway = stack.gateway
        backend.inject(row.fault)
        answer = await gateway.chat()
        blamed = (await gateway.get("/status")).json["endpoints"]["b"]["breaker"] != "closed"
    assert_error(answer, row)
    (attempt,) = answer.error["details"]["attempts"]
    assert (attempt["backend"], attempt["error_type"]) == ("b", row.error_type)
    assert {"backend", "error_type", "status", "ms"} == attempt.keys()
    assert blamed is row.blamed


def assert_error(answer: Answer, row: Row) -> None:
    """The whole of an error in OpenAI's shape."""
    error = answer.error
    assert answer.json.keys() == {"error"}
    assert error.keys() == {"message", "type", "code", "param"} | FIELDS
    assert (answer.status, error["error_type"], error["type"]) == (row.status, row.error_type, row.type)
    assert error["code"] == row.error_type
    assert error["is_retryable"] is row.retryable
    assert TIMESTAMP.fullmatch(error["timestamp"])
    assert error["correlation_id"] == answer.headers["x-correlation-id"] == answer.headers["x-request-id"]
    assert answer.headers["x-should-retry"] == str(row.retryable).lower()
    assert ("retry-after" in answer.headers, "retry-after-ms" in answer.headers) == (row.retryable, row.retryable)
    if row.retryable:
        seconds = int(answer.headers["retry-after"])
        assert seconds >= 1
        assert 0 < int(answer.headers["retry-after-ms"]) <= seconds * 1000
    for leak in (b"127.0.0.1", b"Traceback", b".py", b"sk-secret", b"EngineCore", b"CUDA"):
        assert leak not in answer.body


@pytest.mark.parametrize("row", ROWS, ids=IDS)
async def test_whether_another_backend_of_the_tier_is_asked(row: Row) -> None:
    async with two("backends: [bad, good]", "oom: {attempts: 0}") as (gateway, bad, good):
        bad.inject(row.fault)
        answers = [await gateway.chat() for _ in range(2)]  # one of them begins at the bad one
        if row.elsewhere:
            assert [answer.text for answer in answers] == [count_text(1, 8)] * 2
        else:
            assert sorted(answer.status for answer in answers) == [200, row.status]
            assert len(good.log.to("/v1/chat/completions")) == 1


@pytest.mark.parametrize("row", ROWS, ids=IDS)
async def test_whether_the_next_tier_is_asked(row: Row) -> None:
    async with two("backends: [bad], fallback: [good]", "oom: {attempts: 0}, retry: {attempts: 1}") as (
        gateway,
        bad,
        _,
    ):
        bad.inject(row.fault)
        answer = await gateway.chat()
        if not row.next_tier:
            assert answer.status == row.status
            return
        assert answer.text == count_text(1, 8)
        head = [answer.headers[f"x-seawall-{name}"] for name in ("backend", "attempts", "fallback", "model")]
        assert head == ["good", "2", "true", "tiny"]


async def test_a_request_too_long_goes_only_to_a_tier_with_a_longer_context() -> None:
    for length, status in ((1024, 200), (512, 400)):
        async with FaultBackend() as bad, FaultBackend() as good:
            bad.inject("context_length")
            text = (
                f"server: {{listen: '127.0.0.1:0'}}\nbackends:\n"
                f"  bad: {{url: '{bad.url}', kind: vllm, context_length: 512}}\n"
                f"  good: {{url: '{good.url}', kind: vllm, context_length: {length}}}\n"
                f"routes: [{{model: tiny, backends: [bad], fallback: [good]}}]\n"
            )
            async with running_gateway(text) as gateway:
                answer = await gateway.chat()
        assert answer.status == status
    details = answer.error["details"]
    assert (details["input_length"], details["max_length"]) == (600, 512)
    assert details["suggestion"]


async def test_out_of_memory_is_tried_once_with_less_and_the_answer_says_so() -> None:
    async with before_faults(more="") as (stack, backend):
        backend.inject(fault("oom", times=1))
        answer = await stack.gateway.chat()
        asked = [json.loads(seen.body)["max_tokens"] for seen in backend.log.to("/v1/chat/completions")]
    assert (answer.status, asked) == (200, [8, 4])
    assert answer.text == count_text(1, 4)
    assert "max_tokens" in answer.headers["x-seawall-warning"]


async def test_a_total_failure_is_the_most_telling_and_names_all_attempts() -> None:
    async with two("backends: [bad], fallback: [good]", "oom: {attempts: 0}, retry: {attempts: 1}") as (
        gateway,
        bad,
        good,
    ):
        bad.inject("kill")
        good.inject("loading")
        error = (await gateway.chat()).error
    assert error["error_type"] == "model_loading"
    kinds = [(attempt["backend"], attempt["error_type"]) for attempt in error["details"]["attempts"]]
    assert kinds == [("bad", "backend_unreachable"), ("good", "model_loading")]


async def test_an_open_circuit_is_answered_at_once_as_overload_with_the_time_to_wait() -> None:
    async with before_faults(more=ONE_FAILURE_OPENS) as (stack, backend):
        backend.inject("internal_error")
        await stack.gateway.chat()
        answer = await stack.gateway.chat()
        assert len(backend.log.to("/v1/chat/completions")) == 1
    assert (answer.status, answer.error["error_type"], answer.error["is_retryable"]) == (503, "model_overloaded", True)
    assert 0 < int(answer.headers["retry-after"]) <= 10


async def test_overload_turns_the_balancer_away_for_as_long_as_the_backend_says() -> None:
    async with two("backends: [bad, good]") as (gateway, bad, _):
        bad.inject(fault("overloaded", headers={"retry-after": "30"}))
        for _ in range(10):
            assert (await gateway.chat()).status == 200
        assert len(bad.log.to("/v1/chat/completions")) == 1


# -- the gateway's own refusals ----------------------------------------------------------------------------------------

KEYS = """
auth:
  keys:
    - {name: a, key: key-a, requests_per_minute: 1}
    - {name: b, key: key-b, models: [other]}
"""


@pytest.mark.parametrize(
    ("key", "status", "kind", "error_type", "retryable"),
    [
        (None, 401, "authentication_error", "authentication_failed", False),
        ("wrong", 401, "authentication_error", "authentication_failed", False),
        ("key-b", 403, "permission_error", "permission_denied", False),
        ("key-a", 429, "rate_limit_error", "rate_limited", True),
    ],
)
async def test_keys(key: str | None, status: int, kind: str, error_type: str, retryable: bool) -> None:
    async with before_faults(more=KEYS) as (stack, _):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        answer = await stack.gateway.chat(headers=headers)
        if status == 429:
            assert answer.status == 200
            answer = await stack.gateway.chat(headers=headers)
    assert (answer.status, answer.error["type"], answer.error["error_type"]) == (status, kind, error_type)
    assert answer.headers["x-should-retry"] == str(retryable).lower()
    assert ("retry-after" in answer.headers, "retry-after-ms" in answer.headers) == (retryable, retryable)
    assert b"key-a" not in answer.body


MESSAGES = CHAT["messages"]
LONG = [{"role": "user", "content": "x" * 200_001}]


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, {"model": "This field is required", "messages": "This field is required"}),
        ({"model": "tiny", "messages": [{"content": "x"}]}, {"messages -> 0 -> role": "This field is required"}),
        ({"model": "tiny", "messages": [*MESSAGES, {}]}, {"messages -> 1 -> role": "This field is required"}),
        ({"model": "tiny", "messages": MESSAGES, "max_tokens": 0}, {"max_tokens": "must be at least 1"}),
        ({"model": "tiny", "messages": MESSAGES, "max_tokens": 9000}, {"max_tokens": "must be at most 8192"}),
        ({"model": "tiny", "messages": MESSAGES, "temperature": -1}, {"temperature": "must be at least 0"}),
        ({"model": "tiny", "messages": MESSAGES, "top_p": 1.5}, {"top_p": "must be at most 1"}),
        ({"model": "tiny", "messages": MESSAGES, "n": "many"}, {"n": "must be an integer"}),
        ({"model": "tiny", "messages": MESSAGES, "stream": "maybe"}, {"stream": "must be true or false"}),
        ({"model": "tiny", "messages": "hello"}, {"messages": "must be a list"}),
        ({"model": "tiny", "messages": LONG}, {"messages": "must be at most 200000 characters long; it is 200001"}),
    ],
)
async def test_wrong_fields_are_named_with_what_is_wrong(body: dict[str, Any], errors: dict[str, str]) -> None:
    async with before_faults() as (stack, backend):
        answer = await stack.gateway.post("/v1/chat/completions", body)
        assert backend.log.to("/v1/chat/completions") == []
    assert (answer.status, answer.error["error_type"], answer.error["type"]) == (422, "validation_error", BAD)
    assert answer.error["details"]["field_errors"] == {name: [said] for name, said in errors.items()}
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"model":"tiny","messages":[' + b"[" * 5000])
async def test_what_cannot_be_read_is_invalid_input(body: bytes) -> None:
    async with before_faults() as (stack, _):
        (answer,) = await stack.raw(request(body=body))
    assert (answer.status, answer.error["error_type"]) == (400, "invalid_input")


async def test_an_unknown_model_suggests_the_nearest() -> None:
    async with before_faults() as (stack, _):
        answer = await stack.gateway.chat(model="tinny")
    assert (answer.status, answer.error["error_type"], answer.error["param"]) == (404, "model_not_found", "model")
    assert "Did you mean 'tiny'?" in answer.error["message"]
    assert answer.error["details"]["suggestion"] == "tiny"


async def test_a_body_too_large_is_413_and_names_the_limit() -> None:
    async with before_faults("max_body: 64KiB") as (stack, _):
        (answer,) = await stack.raw(request(content_length="65537"))
    assert (answer.status, answer.error["error_type"]) == (413, "payload_too_large")
    assert "65536" in answer.error["message"]


async def test_a_fault_of_ours_tells_nothing_but_the_correlation_id(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret at /opt/gateway.py")

    async with before_faults() as (stack, _):
        monkeypatch.setattr(stack.gateway.gateway.pipeline, "_route", broken)
        answer = await stack.gateway.chat()
    assert (answer.status, answer.error["error_type"], answer.error["type"]) == (500, "internal_error", SERVER)
    assert answer.error["details"] == {}
    assert b"secret" not in answer.body


# -- shapes ------------------------------------------------------------------------------------------------------------


async def overloaded(stack: Stack, path: str, body: object, accept: str = "*/*") -> Answer:
    return await stack.gateway.post(path, body, {"Accept": accept, "X-Correlation-ID": "c-1"})


async def test_the_shapes_carry_the_same_fields() -> None:
    async with before_faults() as (stack, backend):
        backend.inject(fault("overloaded", headers={}))
        anthropic = await overloaded(stack, "/v1/messages", CHAT)
        native = await overloaded(stack, "/generate", {"model": "tiny", "prompt": "x"})
        problem = await overloaded(stack, "/v1/chat/completions", CHAT, "application/problem+json")
        plain = await overloaded(stack, "/v1/chat/completions", CHAT, "application/json")
    assert {answer.status for answer in (anthropic, native, problem, plain)} == {503}
    assert anthropic.json.keys() >= {"type", "error", "request_id"}
    assert (anthropic.json["type"], anthropic.json["request_id"]) == ("error", "c-1")
    assert anthropic.json["error"].keys() >= {"type", "message"} | FIELDS
    assert anthropic.json["error"]["type"] == "overloaded_error"
    assert native.json.keys() == {"error"} | FIELDS
    assert isinstance(native.json["error"], str)
    assert problem.headers["content-type"] == "application/problem+json"
    assert problem.json.keys() >= {"type", "title", "status", "detail", "instance"} | FIELDS
    assert (problem.json["status"], problem.json["error_type"]) == (503, "model_overloaded")
    assert plain.headers["content-type"] == "application/json"
    for document in (anthropic.json["error"], native.json, problem.json, plain.error):
        assert (document["error_type"], document["correlation_id"]) == ("model_overloaded", "c-1")
        assert TIMESTAMP.fullmatch(document["timestamp"])


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.error_type != "inference_timeout"], ids=lambda r: r.error_type
)
async def test_the_openai_client_raises_the_right_exception(row: Row) -> None:
    async with before_faults() as (stack, backend):
        backend.inject(row.fault)
        async with openai.AsyncOpenAI(base_url=stack.gateway.url + "/v1", api_key="x", max_retries=0) as client:
            with pytest.raises(row.exception) as caught:
                await client.chat.completions.create(model="tiny", messages=MESSAGES)  # type: ignore[arg-type]
    error = caught.value
    assert (error.status_code, error.code, error.type) == (row.status, row.error_type, row.type)
    assert error.request_id == error.body["correlation_id"]  # type: ignore[index]


async def test_the_openai_client_obeys_the_advice() -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "max_tokens": 8}
    async with (
        before_faults() as (stack, backend),
        openai.AsyncOpenAI(base_url=stack.gateway.url + "/v1", api_key="x", max_retries=2) as client,
    ):
        backend.inject(fault("internal_error", times=1))
        answer = await client.chat.completions.create(**asked)
        assert answer.choices[0].message.content == count_text(1, 8)
        assert len(backend.log.to("/v1/chat/completions")) == 2
        backend.log.clear()
        backend.inject("context_length")
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(**asked)
        assert len(backend.log.to("/v1/chat/completions")) == 1


LOADING = Fault(FaultKind.RESPOND, status=503, body=error_body("Loading model", "unavailable_error", 503), path="/*")
NO_WEIGHTS = Fault(FaultKind.RESPOND, status=503, body=b'{"error":"model failed to load"}', path="/*")


@pytest.mark.parametrize(
    ("what", "status", "error_type", "retryable"),
    [
        (None, 502, "backend_unreachable", True),
        (LOADING, 503, "model_loading", True),
        (NO_WEIGHTS, 503, "model_loading_failed", False),
    ],
)
async def test_what_health_checks_have_found_down_is_told_as_what_it_is(
    what: Fault | None, status: int, error_type: str, retryable: bool
) -> None:
    async with FaultBackend() as backend:
        if what is None:
            await backend.kill()
        else:
            backend.inject(what)
        async with running_gateway(config(backend.url)) as gateway:
            await eventually(lambda: not gateway.gateway.runtime.endpoints["b"].healthy)
            answer = await gateway.chat()
    assert (answer.status, answer.error["error_type"], answer.error["is_retryable"]) == (status, error_type, retryable)
    assert ("retry-after" in answer.headers) is retryable
