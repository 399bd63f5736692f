"""Traces as Phoenix sees them, a store of traces that knows the GenAI conventions: the spans of one request with its
attempts, taken for calls of a model."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import parts
from tests.support.fault_backend import FaultBackend
from tests.support.gateway import running_gateway
from tests.support.processes import Process, free_port, status_of, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.nightly]
PACKAGE = "arize-phoenix==20.26.1"


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of one that runs, in an environment of its own (some 850 MB)."""
    programs = parts.environment("phoenix", PACKAGE)
    port = free_port()
    settings = {
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(free_port()),
        "PHOENIX_WORKING_DIR": str(tmp_path_factory.mktemp("phoenix")),
        "PHOENIX_TELEMETRY_ENABLED": "false",
    }
    url = f"http://127.0.0.1:{port}"
    with Process([str(programs / "phoenix"), "serve"], env={**os.environ, **settings}):
        wait_until(lambda: status_of(f"{url}/healthz") == 200, 180, "Phoenix")
        yield url


async def test_a_fallback_is_one_trace_of_three_calls_with_tokens_and_causes(phoenix: str) -> None:
    async with FaultBackend() as one, FaultBackend() as two:
        one.inject("engine_dead")
        config = (
            "server: {listen: '127.0.0.1:0'}\n"
            f"backends:\n  a: {{url: '{one.url}', kind: vllm}}\n  b: {{url: '{two.url}', kind: vllm}}\n"
            "routes: [{model: tiny, backends: [a], fallback: [b], policy: once}]\n"
            "policies: {once: {retry: {attempts: 2}}}\n"
            f"observability: {{otlp: '{phoenix}'}}\n"
        )
        async with running_gateway(config) as gateway:
            answer = await gateway.chat(headers={"X-Correlation-ID": "traced-1"})
            assert (answer.status, answer.headers["x-seawall-backend"]) == (200, "b")
            sent = len(list(one.log.to("/v1/chat/completions")))
            async with asyncio.timeout(60):
                while len(spans := await received(gateway.session, phoenix)) < 2 + sent:  # noqa: ASYNC110 - another process's
                    await asyncio.sleep(0.2)
    (request,) = [span for span in spans if span["parent_id"] is None]
    attempts = sorted((span for span in spans if span is not request), key=lambda span: span["start_time"])
    assert request["attributes"]["seawall.correlation_id"] == "traced-1"
    assert {span["context"]["trace_id"] for span in attempts} == {request["context"]["trace_id"]}
    assert {span["parent_id"] for span in attempts} == {request["context"]["span_id"]}
    assert {span["span_kind"] for span in attempts} == {"LLM"}
    *failed, good = attempts
    assert {span["attributes"]["error.type"] for span in failed} == {"generation_failed"}
    assert {span["status_code"] for span in failed} == {"ERROR"}
    assert (good["attributes"]["llm.token_count.completion"], good["attributes"]["llm.model_name"]) == (8, "tiny")
    assert "seawall.fallback" in {event["name"] for event in request["events"]}


async def received(session: Any, phoenix: str) -> list[dict[str, Any]]:
    """The spans that it has; none before the first came."""
    async with session.get(f"{phoenix}/v1/projects/default/spans") as response:
        return (await response.json())["data"] if response.status == 200 else []
