"""Answers that would be wrong, cut or lost if two mechanisms that work alone did not work together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from unittest.mock import Mock

import orjson
import pytest

from gateway.endpoint import Service
from gateway.relay.resume import Resumption
from tests.integration.test_resilience import stack
from tests.support.counting_model import count_text
from tests.support.faults import fault
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.rogue import RogueBackend
from tests.support.waiting import eventually

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


@pytest.mark.parametrize("keeps", [False, True], ids=["cut", "stalls"])
async def test_when_the_last_choice_has_ended_the_answer_is_whole(keeps: bool) -> None:
    async with RogueBackend() as rogue, rogue_stack(rogue) as gateway:
        rogue.keeps = keeps
        rogue.says = SSE + choice(0, "a") + choice(1, "b") + choice(0, "", "stop") + choice(1, "", "length")
        asked = {"model": "tiny", "stream": True, "n": 2, "messages": [{"role": "user", "content": "count"}]}
        answer = await gateway.post("/v1/chat/completions", asked)
        assert answer.streamed == "ab"
        assert answer.frames[-1] == "[DONE]"


@pytest.mark.parametrize("ended", [(), (0,)])
async def test_the_end_of_the_stream_is_none_while_a_choice_has_not_ended(ended: tuple[int, ...]) -> None:
    async with RogueBackend() as rogue, rogue_stack(rogue) as gateway:
        rogue.says = SSE + choice(0, "a") + choice(1, "b") + b"".join(choice(index, "", "stop") for index in ended)
        rogue.says += b"data: [DONE]\n\n"
        asked = {"model": "tiny", "stream": True, "n": 2, "messages": [{"role": "user", "content": "count"}]}
        answer = await gateway.post("/v1/chat/completions", asked)
        assert answer.error["error_type"] == "generation_failed"


async def test_a_server_may_give_fewer_choices_than_it_was_asked_for() -> None:
    async with RogueBackend() as rogue, rogue_stack(rogue) as gateway:
        rogue.says = SSE + choice(0, "a") + choice(0, "", "stop") + b"data: [DONE]\n\n"
        asked = {"model": "tiny", "stream": True, "n": 2, "messages": [{"role": "user", "content": "count"}]}
        answer = await gateway.post("/v1/chat/completions", asked)
        assert answer.frames[-1] == "[DONE]"


@pytest.mark.parametrize("whole", [False, True], ids=["cut", "whole"])
async def test_words_of_the_client_that_an_event_repeats_do_not_end_the_stream(whole: bool) -> None:
    said = {"type": "response.completed"}
    events = [
        {"type": "response.created", "response": {"id": "r", "metadata": said}},
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "1 2"},
    ]
    events += [{"type": "response.completed", "response": {"id": "r", "metadata": said}}] * whole
    async with RogueBackend() as rogue, rogue_stack(rogue) as gateway:
        rogue.says = SSE + b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)
        asked = {"model": "tiny", "stream": True, "input": "count", "metadata": said}
        answer = await gateway.post("/v1/responses", asked)
        last = orjson.loads(answer.frames[-1])
        assert last == events[-1] if whole else last["error"]["error_type"] == "generation_failed"


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


async def test_an_answer_is_not_kept_waiting_for_an_endpoint_that_is_away() -> None:
    async with stack(policy=POLICY) as (gateway, (slow, _)):
        slow.inject(fault("slow_first_token", seconds=0.4))
        started = monotonic()
        gateway.gateway.runtime.endpoints["b1"].away_until = started + 3.0
        answer = await gateway.chat()
        assert (answer.text, answer.headers["x-seawall-backend"]) == (count_text(1, 8), "b0")
        assert monotonic() - started < 2.5
        assert [endpoint.in_flight for endpoint in gateway.gateway.runtime.endpoints.values()] == [0, 0]


async def test_an_endpoint_that_was_ejected_during_a_pause_is_not_asked() -> None:
    policy = POLICY.replace("{initial: 1ms, max: 1ms}", "{initial: 2s, max: 2s, jitter: none}")
    async with stack(primaries=1, fallback=True, policy=policy) as (gateway, (failing, _)):
        endpoint = gateway.gateway.runtime.endpoints["b0"]
        failing.inject(fault("internal_error", times=1))
        asking = asyncio.create_task(gateway.chat())
        await eventually(lambda: endpoint.breaker.snapshot(monotonic()).failures == 1 and endpoint.in_flight == 1)
        endpoint.set_service(Service.EJECTED, monotonic())
        assert (await asking).headers["x-seawall-backend"] == "b1"
        assert len(failing.log.to("/v1/chat/completions")) == 1


@pytest.mark.parametrize(("within", "attempts"), [(60.0, "1"), (0.0, "2")])
async def test_a_connection_lost_late_is_a_failed_attempt(
    within: float, attempts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.attempt.STALE_WITHIN", within)
    async with stack(primaries=1, policy=POLICY) as (gateway, (backend,)):
        await gateway.chat()
        backend.inject(fault("stale_connection", times=1))
        assert (await gateway.chat()).headers["x-seawall-attempts"] == attempts


@pytest.mark.parametrize("models", [b'[{"id":"a","max_model_len":1},{"id":"b","max_model_len":"x"}]', b"[" * 200_000])
async def test_a_strange_list_of_models_does_not_end_the_probing(models: bytes) -> None:
    async with RogueBackend() as rogue:
        rogue.says = SSE.replace(b"text/event-stream", b"application/json") + b'{"data":' + models + b"}"
        text = f"backends: {{b0: {{url: '{rogue.url}', kind: vllm, health: {{interval: 50ms, healthy_after: 1}}}}}}\n"
        async with running_gateway(text + "routes: [{model: tiny, backends: [b0]}]\n") as gateway:
            await eventually(lambda: rogue.asked >= 1)
            before = rogue.connections
            await eventually(lambda: rogue.connections >= before + 4)
            assert gateway.gateway.runtime.endpoints["b0"].healthy


async def test_an_error_of_the_gateways_own_in_a_stream_is_told_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Resumption, "broke", Mock(side_effect=RuntimeError("a bug")))
    async with stack() as (gateway, backends):
        for backend in backends:
            backend.inject(fault("rst_mid_stream", after=3))
        answer = await gateway.chat(stream=True)
    assert answer.streamed == count_text(1, 3)
    assert answer.error["error_type"] == "internal_error"
    assert b"a bug" not in answer.body
