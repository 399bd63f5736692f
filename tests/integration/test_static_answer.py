"""`static_answer` of a route, over real sockets and as the openai package reads it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from openai import AsyncOpenAI

from tests.integration.test_resilience import POLICY
from tests.support.counting_model import count_text
from tests.support.fault_backend import FaultBackend
from tests.support.gateway import Answer, RunningGateway, running_gateway

TEXT = "Out of order.\nTry again “soon”."
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "count"}], "max_tokens": 8},
    COMPLETIONS: {"prompt": "count", "max_tokens": 8},
    MESSAGES: {"messages": [{"role": "user", "content": "count"}], "max_tokens": 8},
    RESPONSES: {"input": "count", "max_output_tokens": 8},
    "/generate": {"prompt": "count", "max_tokens": 8},
    "/v1/embeddings": {"input": "count"},
    "/v1/images/generations": {"prompt": "a cat"},
}


@asynccontextmanager
async def stack(policy: str = POLICY) -> AsyncIterator[tuple[RunningGateway, FaultBackend]]:
    """A gateway whose only backend is down until it is healed."""
    async with FaultBackend() as backend:
        backend.inject("internal_error")
        static = f"static_answer: {{text: {orjson.dumps(TEXT).decode()}}}"
        route = f"routes: [{{model: tiny, backends: [b], {static}}}]"
        text = f"server: {{listen: '127.0.0.1:0'}}\nbackends: {{b: {{url: '{backend.url}', kind: vllm}}}}\n{route}\n"
        async with running_gateway(text + policy) as gateway:
            yield gateway, backend


async def ask(gateway: RunningGateway, path: str, **fields: Any) -> Answer:
    return await gateway.post(path, {"model": "tiny"} | ASKED[path] | fields)


def sdk(gateway: RunningGateway) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=gateway.url + "/v1", api_key="any", max_retries=0)


async def test_it_says_what_it_is_and_a_real_answer_comes_first() -> None:
    async with stack() as (gateway, backend):
        answer = await ask(gateway, CHAT)
        assert (answer.status, answer.text) == (200, TEXT)
        assert answer.headers["x-seawall-fallback"] == "true"
        assert answer.headers["x-seawall-model"] == answer.json["model"] == "static"
        assert "x-seawall-backend" not in answer.headers
        assert "generation_failed" in answer.headers["x-seawall-warning"]
        assert int(answer.headers["x-seawall-attempts"]) >= 1
        assert answer.headers["x-correlation-id"] in answer.json["id"]
        assert answer.json["usage"]["total_tokens"] == 0
        assert b'seawall_static_answers_total{route="tiny"} 1' in (await gateway.get("/metrics")).body
        backend.heal()
        await gateway.get("/metrics")
        assert (await ask(gateway, CHAT)).text == count_text(1, 8)


async def test_an_earlier_answer_is_better_than_a_static_one() -> None:
    async with stack(POLICY + "    stale_if_error: {ttl: 1h}\n") as (gateway, backend):
        backend.heal()
        fresh = await ask(gateway, CHAT, temperature=0)
        backend.inject("internal_error")
        assert (await ask(gateway, CHAT, temperature=0)).body == fresh.body
        assert (await ask(gateway, CHAT)).text == TEXT


async def test_openais_package_reads_all_its_shapes_whole_and_streamed() -> None:
    async with stack() as (gateway, _), sdk(gateway) as client:
        chat: dict[str, Any] = {"model": "tiny", **ASKED[CHAT]}
        whole = await client.chat.completions.create(**chat, n=2)
        assert [(c.message.content, c.finish_reason) for c in whole.choices] == [(TEXT, "stop")] * 2
        stream = await client.chat.completions.create(**chat, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        assert "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices) == TEXT
        assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == ["stop"]
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 0
        completion = await client.completions.create(model="tiny", prompt="count")
        assert completion.choices[0].text == TEXT
        parts = [part async for part in await client.completions.create(model="tiny", prompt="count", stream=True)]
        assert "".join(part.choices[0].text for part in parts) == TEXT
        assert (await client.responses.create(model="tiny", input="count")).output_text == TEXT
        async with client.responses.stream(model="tiny", input="count") as events:
            assert (await events.get_final_response()).output_text == TEXT


async def test_anthropics_shape_whole_and_streamed() -> None:
    async with stack() as (gateway, _):
        whole = await ask(gateway, MESSAGES)
        assert whole.json["content"] == [{"type": "text", "text": TEXT}]
        assert (whole.json["type"], whole.json["stop_reason"]) == ("message", "end_turn")
        stream = await ask(gateway, MESSAGES, stream=True)
        events = [
            (frame.split("\n")[0][7:], orjson.loads(frame.split("\n")[1][6:]))
            for frame in stream.body.decode().split("\n\n")
            if frame
        ]
        assert [name for name, _ in events] == [event["type"] for _, event in events]
        assert [name for name, _ in events] == [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
        assert events[2][1]["delta"]["text"] == TEXT


async def test_the_native_answer_names_no_model_that_was_not_asked() -> None:
    async with stack() as (gateway, _):
        answer = await ask(gateway, "/generate")
        assert answer.json["generated_text"] == TEXT
        assert answer.json["was_fallback"] is True
        assert answer.json["model_used"] == "static"
        assert "no model wrote it" in answer.json["warning"]


WITHOUT_A_STATIC_ANSWER = [
    ("/v1/embeddings", {}),
    ("/v1/images/generations", {}),
    (CHAT, {"response_format": {"type": "json_object"}}),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}),
    (CHAT, {"guided_regex": "[0-9]+"}),
    (COMPLETIONS, {"prompt": ["one", "two"]}),
    (MESSAGES, {"tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "tool", "name": "f"}}),
    (RESPONSES, {"text": {"format": {"type": "json_schema", "name": "x", "schema": {}}}}),
]


@pytest.mark.parametrize(("path", "fields"), WITHOUT_A_STATIC_ANSWER)
async def test_where_a_text_is_no_answer_the_error_is_told(path: str, fields: dict[str, Any]) -> None:
    async with stack() as (gateway, _):
        answer = await ask(gateway, path, **fields)
        assert answer.status == 502, answer.body
        assert answer.error["type"] in ("server_error", "api_error")


async def test_a_clients_own_mistake_is_told() -> None:
    async with stack() as (gateway, backend):
        backend.inject("context_length")
        assert (await ask(gateway, CHAT)).status == 400
        backend.heal()
        assert (await ask(gateway, CHAT, temperature=-1)).status == 422


async def test_a_stream_that_had_begun_ends_in_an_error_not_in_another_text() -> None:
    async with stack() as (gateway, backend):
        backend.inject("rst_mid_stream")
        answer = await ask(gateway, CHAT, stream=True, max_tokens=40)
        assert answer.error["error_type"] == "generation_failed"
        assert TEXT not in answer.streamed
