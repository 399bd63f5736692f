"""Streams of /v1/messages and /v1/responses that break and go on at another endpoint, over real sockets."""

from __future__ import annotations

from typing import Any

import openai
import orjson
import pytest
from openai import AsyncOpenAI

from gateway.relay.sse import document_of, split
from tests.integration.test_operations import sample
from tests.integration.test_resilience import POLICY, stack
from tests.support.counting_model import count_text
from tests.support.faults import Fault, FaultKind, fault
from tests.support.gateway import Answer, RunningGateway

MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
BREAKS = ["rst_mid_stream", "stall", "silent_cut", "engine_death", "giant_frame", "bad_chunk", "malformed_frame"]


def asked(path: str, **fields: Any) -> dict[str, Any]:
    text: dict[str, Any] = {"input": "count", "max_output_tokens": 20}
    if path == MESSAGES:
        text = {"messages": [{"role": "user", "content": "count"}], "max_tokens": 20}
    return {"model": "tiny", "stream": True, "temperature": 0} | text | fields


def events(answer: Answer) -> list[dict[str, Any]]:
    return [document for frame in split(answer.body) if (document := document_of(frame)) is not None]


def text_of(found: list[dict[str, Any]]) -> str:
    deltas = [e["delta"] for e in found if e["type"] in ("content_block_delta", "response.output_text.delta")]
    return "".join(delta if isinstance(delta, str) else delta["text"] for delta in deltas)


async def resumed(gateway: RunningGateway, outcome: str) -> int:
    text = (await gateway.get("/metrics")).body.decode()
    return int(sample(text, "seawall_stream_resumes_total", route="tiny", outcome=outcome))


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
@pytest.mark.parametrize("after", [1, 9])
@pytest.mark.parametrize("name", BREAKS)
async def test_a_broken_stream_is_made_again_behind_what_the_client_has(name: str, after: int, path: str) -> None:
    async with stack() as (gateway, (bad, _)):
        undisturbed = events(await gateway.post(path, asked(path)))
        bad.inject(fault(name, after=after))
        for _ in range(2):  # one of them meets the faulty endpoint first
            found = events(await gateway.post(path, asked(path)))
            assert text_of(found) == count_text(1, 20)
            assert [e["type"] for e in found] == [e["type"] for e in undisturbed]
            if path == RESPONSES:
                assert [e["sequence_number"] for e in found] == list(range(len(found)))
                assert len({e["item_id"] for e in found if "item_id" in e}) == 1
                assert found[0]["response"]["id"] == found[-1]["response"]["id"]
        assert await resumed(gateway, "replay") >= 1


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
async def test_the_answer_that_lacks_only_its_last_event_is_whole_or_made_again(path: str) -> None:
    async with stack() as (gateway, (bad, _)):
        bad.inject("no_done")
        for _ in range(2):
            found = events(await gateway.post(path, asked(path)))
            assert text_of(found) == count_text(1, 20)
            assert found[-1]["type"] == ("message_stop" if path == MESSAGES else "response.completed")


async def test_a_messages_stream_that_cannot_go_on_ends_in_anthropics_error() -> None:
    async with stack() as (gateway, (bad, good)):
        for backend in (bad, good):
            backend.inject("engine_death")
        answer = await gateway.post(MESSAGES, asked(MESSAGES, temperature=0.7))
        found = events(answer)
        assert text_of(found) == count_text(1, 10)
        assert answer.body.split(b"\n\n")[-2].startswith(b"event: error\ndata: ")
        assert found[-1]["type"] == "error"
        assert found[-1]["error"]["type"] == "api_error"
        assert found[-1]["error"]["error_type"] == "generation_failed"
        assert found[-1]["request_id"] == answer.headers["x-correlation-id"]
        assert b"message_stop" not in answer.body
        assert b"pydantic" not in answer.body


async def test_openais_package_reads_a_resumed_response_and_raises_on_one_that_cannot_go_on() -> None:
    async with stack() as (gateway, (bad, good)):
        bad.inject("rst_mid_stream")
        async with AsyncOpenAI(base_url=gateway.url + "/v1", api_key="any", max_retries=0) as sdk:
            for _ in range(2):
                async with sdk.responses.stream(
                    model="tiny", input="count", max_output_tokens=20, temperature=0
                ) as stream:
                    assert (await stream.get_final_response()).output_text == count_text(1, 20)
            good.inject("rst_mid_stream")
            stream = await sdk.responses.create(model="tiny", input="count", max_output_tokens=20, stream=True)
            with pytest.raises(openai.APIError):
                [event async for event in stream]


async def test_an_error_of_a_messages_stream_before_its_content_is_hidden() -> None:
    async with stack() as (gateway, (bad, _)):
        error = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
        bad.inject(Fault(FaultKind.RESPOND, headers={"content-type": "text/event-stream"}, body=error))
        for _ in range(2):
            assert text_of(events(await gateway.post(MESSAGES, asked(MESSAGES)))) == count_text(1, 20)


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
async def test_whole_answers_and_refusals_in_these_shapes(path: str) -> None:
    async with stack() as (gateway, _):
        whole = await gateway.post(path, asked(path, stream=False))
        assert whole.status == 200
        assert count_text(1, 20) in whole.body.decode()
        field = "max_tokens" if path == MESSAGES else "max_output_tokens"
        refused = await gateway.post(path, asked(path) | {field: 5000})
        assert refused.status == 400
        assert orjson.loads(refused.body)["error"]["error_type"] == "context_length_exceeded"


async def test_a_500_that_only_names_an_exception_is_tried_once_elsewhere_and_blames_nobody() -> None:
    raised = b'{"error":{"message":"ValueError: not enough values to unpack","type":"InternalServerError","code":500}}'
    async with stack(primaries=3, policy=POLICY.replace("consecutive_failures: 5", "consecutive_failures: 1")) as (
        gateway,
        backends,
    ):
        for backend in backends[:2]:
            backend.inject(Fault(FaultKind.RESPOND, status=500, body=raised))
        answers = [await gateway.chat() for _ in range(12)]
        assert {answer.status for answer in answers} == {200, 400}
        assert all(int(answer.headers["x-seawall-attempts"]) <= 2 for answer in answers)
        state = (await gateway.get("/status")).json["endpoints"]
        assert {state[name]["breaker"] for name in state} == {"closed"}
