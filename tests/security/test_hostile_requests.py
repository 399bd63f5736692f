"""A corpus of hostile requests over real sockets: no 500, no traceback, only answers and errors of the contract."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice

import pytest

from gateway.errors.kinds import KINDS
from policies.outcome import ErrorKind
from tests.integration.test_operations import config
from tests.security.test_desync import SENTINEL, get
from tests.support.fault_backend import FaultBackend
from tests.support.gateway import running_gateway
from tests.support.hostile import Hostile, requests
from tests.support.raw_http import RawAnswer, talk

#: What a client's request can be answered with, beside a good answer; 404 and 405 are invalid_input, too.
ALLOWED = {400, 401, 404, 405, 413, 422, 431}
BY_TYPE = {kind.value: spec for kind, spec in KINDS.items()}
NEVER = (b"Traceback", b'File "', b".py", b"orjson", b"pydantic", b"127.0.0.1", b"/work/", b"site-packages")


def judge(request: Hostile, answer: RawAnswer) -> str | None:
    """What is wrong with the answer, or None."""
    if answer.header("x-correlation-id") is None or answer.header("x-request-id") != answer.header("x-correlation-id"):
        return "no correlation ID"
    if any(word in answer.body for word in NEVER):
        return "tells of the inside"
    if answer.status == 200 or request.method == "HEAD":
        return None
    if answer.status not in ALLOWED:
        return f"status {answer.status}"
    problem = answer.header("content-type") == "application/problem+json"
    error = json.loads(answer.body) if problem else answer.error
    spec = BY_TYPE[error["error_type"]]
    if answer.status != spec.status and error["error_type"] != "invalid_input":
        return f"{error['error_type']} with status {answer.status}"
    if error["correlation_id"] != answer.header("x-correlation-id"):
        return "another correlation ID in the body"
    if answer.header("x-should-retry") != "false" or error["is_retryable"]:
        return "says that trying again helps"
    if request.path == "/v1/messages" and not problem and json.loads(answer.body).get("type") != "error":
        return "not Anthropic's shape"
    return None


async def test_no_hostile_request_gets_anything_but_an_answer_or_an_error_of_the_contract() -> None:
    wrong: list[str] = []
    statuses: Counter[int] = Counter()
    kinds: Counter[str] = Counter()
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        for number, request in enumerate(requests()):
            answers = await talk(port, request.as_bytes() + SENTINEL, timeout=5, head=request.method == "HEAD")
            answer = answers[0]
            statuses[answer.status] += 1
            kinds[request.why] += 1
            problem = judge(request, answer)
            if problem is None and [a.status for a in answers[1:]] not in ([200], []):
                problem = "puts the connection out of step"
            if problem is not None:
                wrong.append(
                    f"{number} {request.why}: {request.as_bytes()[:300]!r} -> {problem}: {answer.body[:200]!r}"
                )
        total = sum(statuses.values())
        errors = gateway.gateway.services.errors.report(gateway.gateway.services.clock())
        assert (await gateway.chat()).status == 200
        assert gateway.gateway.server.buffered == 0
        assert gateway.gateway.services.in_flight == 0
    print(f"{total} hostile requests {dict(kinds)}: statuses {dict(sorted(statuses.items()))}, {len(wrong)} wrong")
    assert wrong == []
    assert total > 1000
    assert ErrorKind.INTERNAL_ERROR.value not in json.dumps(errors)


async def test_a_line_of_the_log_is_one_json_object_whatever_clients_wrote(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """No value forges a line or drives a terminal, and no prompt shows."""
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        for request in islice(requests(), 0, None, 7):
            await talk(port, request.as_bytes() + SENTINEL, timeout=5, head=request.method == "HEAD")
        gateway.gateway.services.logs.flush()
    lines = capfd.readouterr().out.splitlines()
    for line in lines:
        document = json.loads(line)
        assert {"timestamp", "level", "event"} <= document.keys()
        assert not set(line) & set(map(chr, (*range(32), *range(127, 160), 0x202E, 0x2066, 0x2028)))
        assert len(line) <= 32 * 1024
    assert len(lines) > 200
    assert not any("exception" in line or "internal_error" in line for line in lines)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        (b"&".join([b"a=1"] * 64), 422),  # which names no model
        (b"&".join([b"a=1"] * 65), 400),
        (b"model=" + b"m" * 257, 422),
        (b"model=a%0d%0aX-Evil:%20y", 422),
        (b"model=gone", 404),
    ],
)
async def test_a_query_names_a_model_in_bounds(query: bytes, status: int) -> None:
    async with FaultBackend() as backend:
        routes = "routes: [{model: one, backends: [b0]}, {model: two, backends: [b0]}]"
        text = config(backend).replace("routes: [{model: tiny, backends: [b0]}]", routes)
        async with running_gateway(text) as gateway:
            [answer] = await talk(int(gateway.url.rpartition(":")[2]), get(b"/v1/files?" + query, b"Connection: close"))
            assert answer.status == status
            assert answer.error["correlation_id"]
            assert not gateway.gateway.runtime.routes._found.keys() - {"gone"}
