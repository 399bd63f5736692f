"""Answers that would be wrong, cut or lost if two mechanisms that work alone did not work together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import orjson
import pytest

from tests.integration.test_resilience import stack
from tests.support.counting_model import count_text
from tests.support.faults import fault
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.rogue import RogueBackend

POLICY = """
policies:
  default:
    balance: round_robin
    timeout: {connect: 500ms, first_token: 200ms, idle: 300ms, total: 5s}
    retry: {attempts: 5, budget: {ratio: 1, min_per_second: 100}, backoff: {initial: 1ms, max: 1ms}}
"""
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


@asynccontextmanager
async def rogue_stack(rogue: RogueBackend, policy: str = POLICY) -> AsyncIterator[RunningGateway]:
    """A gateway in front of one backend that says what it is told to."""
    text = f"backends: {{b0: {{url: '{rogue.url}', kind: vllm, health: {{interval: 60s}}}}}}\n"
    text += f"routes: [{{model: tiny, backends: [b0]}}]\n{policy}"
    async with running_gateway(text) as gateway:
        yield gateway


def choice(index: int, content: str, finish: str | None = None) -> bytes:
    each = {"index": index, "delta": {"content": content}, "finish_reason": finish}
    return b"data: " + orjson.dumps({"id": "x", "object": "chat.completion.chunk", "choices": [each]}) + b"\n\n"


async def test_a_stream_that_was_answered_beside_a_silent_endpoint_goes_on_when_it_breaks() -> None:
    async with stack(primaries=3, policy=POLICY) as (gateway, (silent, breaks, _)):
        silent.inject(fault("hang", seconds=3.0))
        breaks.inject(fault("rst_mid_stream", after=3, times=1))
        answer = await gateway.chat(stream=True)
        assert answer.streamed == count_text(1, 8)
        assert answer.frames[-1] == "[DONE]"


@pytest.mark.parametrize(
    "asked", [{"n": 2, "messages": [{"role": "user", "content": "count"}]}, {"prompt": ["one", "two"]}]
)
@pytest.mark.parametrize("keeps", [False, True], ids=["cut", "stalls"])
async def test_one_finished_choice_does_not_finish_the_others(asked: dict[str, object], keeps: bool) -> None:
    async with RogueBackend() as rogue, rogue_stack(rogue) as gateway:
        rogue.keeps = keeps
        rogue.says = SSE + choice(0, "a") + choice(1, "b") + choice(0, "", "stop")
        path = "/v1/chat/completions" if "messages" in asked else "/v1/completions"
        answer = await gateway.post(path, {"model": "tiny", "stream": True} | asked)
        assert answer.error["error_type"] in ("generation_failed", "inference_timeout")


async def test_a_large_native_answer_is_translated_too() -> None:
    image = "A" * (9 << 20)
    body = orjson.dumps({"created": 1, "data": [{"b64_json": image}]})
    async with RogueBackend() as rogue, rogue_stack(rogue) as gateway:
        rogue.says = SSE.replace(b"text/event-stream", b"application/json") + body
        answer = await gateway.post("/generate_image", {"model": "tiny", "prompt": "a wave"})
        assert answer.json["image"] == image


@pytest.mark.parametrize("kind", [b"image/png", b"text/event-stream"])
async def test_a_native_client_never_gets_another_form(kind: bytes) -> None:
    async with RogueBackend() as rogue, rogue_stack(rogue) as gateway:
        rogue.says = SSE.replace(b"text/event-stream", kind) + choice(0, "x", "stop") + b"data: [DONE]\n\n"
        answer = await gateway.post("/generate", {"model": "tiny", "prompt": "a wave"})
        assert answer.status == 502
        assert answer.json["error_type"] == "generation_failed"


async def test_an_answer_that_nobody_judges_is_watched_for_silence() -> None:
    async with RogueBackend() as rogue, rogue_stack(rogue) as gateway:
        rogue.keeps = True
        rogue.says = b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 100\r\n\r\nsound"
        started = monotonic()
        with pytest.raises(Exception, match="payload"):
            await gateway.post("/v1/audio/speech", {"model": "tiny", "input": "a wave", "voice": "x"})
        assert monotonic() - started < 2.0
        assert gateway.gateway.runtime.endpoints["b0"].in_flight == 0


async def test_a_fallback_counts_when_it_answers() -> None:
    async with stack(primaries=1, fallback=True, policy=POLICY) as (gateway, (first, second)):
        first.inject("internal_error")
        second.inject("internal_error")
        assert (await gateway.chat()).status == 502
        second.heal()
        assert (await gateway.chat()).headers["x-seawall-fallback"] == "true"
        assert gateway.gateway.metrics.attempts("tiny", "b1").fallbacks == 1
