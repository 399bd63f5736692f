"""Streams: bytes as they came, in whole frames; breaks resumed exactly or told; a client that left costs nothing."""

from __future__ import annotations

import asyncio
import json
import re
from time import monotonic

import openai
import pytest

from tests.contract.stack import CHAT, QUICK, before_faults, request
from tests.support.counting_model import count_text
from tests.support.fault_backend import FaultBackend
from tests.support.faults import fault
from tests.support.gateway import running_gateway

STREAM = CHAT | {"stream": True}
BREAKS = ["rst_mid_stream", "silent_cut", "engine_death", "stall", "malformed_frame", "bad_chunk"]


def text_of(frames: list[str]) -> str:
    """The text of chat frames."""
    documents = [json.loads(frame) for frame in frames if frame != "[DONE]"]
    choices = [choice for document in documents for choice in document.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.mark.parametrize(
    "faults", [[], ["split"], [fault("tokens_per_frame", size=3)]], ids=["plain", "split", "large"]
)
async def test_a_stream_is_the_backends_byte_for_byte(faults: list[object]) -> None:
    """But for the token ids that were not asked for."""
    async with before_faults() as (stack, backend):
        backend.inject(*faults)  # type: ignore[arg-type]
        asked = STREAM | {"stream_options": {"include_usage": True}}
        (answer,) = await stack.raw(request(body=asked, x_request_id="same"))
        url = f"{backend.url}/v1/chat/completions"
        async with stack.gateway.session.post(url, json=asked, headers={"X-Request-ID": "same"}) as direct:
            expected = await direct.read()
    created = re.compile(rb'"created":\d+')
    assert created.sub(b"", answer.body) == created.sub(b"", expected)


async def test_frames_arrive_whole_and_at_once() -> None:
    async with before_faults() as (stack, backend):
        backend.inject("split")
        backend.per_token = 0.02
        pieces: list[tuple[float, bytes]] = []
        async with stack.gateway.session.post(stack.gateway.url + "/v1/chat/completions", json=STREAM) as answer:
            async for piece, _ in answer.content.iter_chunks():
                pieces.append((monotonic(), piece))
    assert all(piece.startswith(b"data: ") and piece.endswith(b"\n\n") for _, piece in pieces)
    assert pieces[-1][0] - pieces[0][0] > 0.08
    assert len(pieces) >= 5


@pytest.mark.parametrize("after", [1, 4, 7])
@pytest.mark.parametrize("name", BREAKS)
async def test_a_break_after_content_ends_in_a_typed_error_without_done_and_the_connection_closes(
    name: str, after: int
) -> None:
    async with before_faults() as (stack, backend):
        backend.inject(fault(name, after=after))
        (answer,) = await stack.raw(request(body=STREAM, connection=""))  # returns when the gateway has closed
    frames = [frame.removeprefix("data: ") for frame in answer.body.decode().split("\n\n") if frame]
    assert answer.status == 200
    assert "[DONE]" not in frames
    assert text_of(frames[:-1]) == count_text(1, after)
    error = json.loads(frames[-1])["error"]
    assert error.keys() >= {"message", "type", "code", "param", "error_type", "is_retryable", "details", "timestamp"}
    assert error["error_type"] in ("generation_failed", "inference_timeout")
    assert error["correlation_id"] == answer.header("x-correlation-id")
    assert error["details"]["attempts"][-1]["backend"] == "b"


@pytest.mark.parametrize("name", BREAKS)
async def test_a_break_with_another_backend_there_is_not_seen(name: str) -> None:
    async with FaultBackend() as bad, FaultBackend() as good:
        text = (
            "server: {listen: '127.0.0.1:0'}\n"
            f"backends: {{bad: {{url: '{bad.url}', kind: vllm}}, good: {{url: '{good.url}', kind: vllm}}}}\n"
            "routes: [{model: tiny, backends: [bad, good]}]\n"
            f"{QUICK.replace('attempts: 1', 'attempts: 3')}    balance: round_robin\n"
        )
        async with running_gateway(text) as gateway:
            whole = await gateway.chat(stream=True, stream_options={"include_usage": True})
            bad.inject(fault(name, after=3))
            for _ in range(2):
                answer = await gateway.chat(stream=True, stream_options={"include_usage": True})
                assert answer.streamed == whole.streamed == count_text(1, 8)
                assert answer.frames[-1] == "[DONE]"
                documents = [json.loads(frame) for frame in answer.frames[:-1]]
                assert len({(found["id"], found["created"], found["model"]) for found in documents}) == 1
                assert documents[-1]["usage"] == json.loads(whole.frames[-2])["usage"]
                assert sum("role" in found["choices"][0]["delta"] for found in documents if found["choices"]) == 1


async def test_before_the_first_content_a_break_is_an_ordinary_failure() -> None:
    async with before_faults() as (stack, backend):
        backend.inject(fault("silent_cut", after=0))
        answer = await stack.gateway.chat(stream=True)
    assert (answer.status, answer.headers["content-type"]) == (502, "application/json")
    assert answer.error["error_type"] == "generation_failed"


async def test_comments_keep_a_waiting_client() -> None:
    more = "policies: {default: {stream: {keepalive: 50ms}}}"
    async with before_faults(more=more) as (stack, backend):
        backend.per_token = 0.2
        (answer,) = await stack.raw(request(body=STREAM | {"max_tokens": 3}))
    assert answer.body.count(b": keepalive\n\n") >= 3
    data = [frame for frame in answer.body.decode().split("\n\n") if frame.startswith("data: ")]
    assert text_of([frame[6:] for frame in data]) == count_text(1, 3)
    assert data[-1] == "data: [DONE]"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_the_work_within_half_a_second(stream: bool) -> None:
    more = "policies: {default: {timeout: {first_token: 30s}}}"
    async with before_faults(more=more) as (stack, backend):
        backend.per_token = 0.05
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        writer.write(request(body=CHAT | {"stream": stream, "max_tokens": 400}))
        if stream:
            await reader.readuntil(b"content")
        else:
            await backend.log.wait_for(lambda log: log.to("/v1/chat/completions"))
        left = asyncio.get_running_loop().time()
        writer.close()
        (seen,) = await backend.log.wait_for_state("aborted")
    assert seen.ended_at is not None
    assert seen.ended_at - left < 0.5


async def test_a_client_that_does_not_read_pauses_its_backend() -> None:
    more = "policies: {default: {limits: {max_tokens: 1000000}, timeout: {idle: 30s}}}"
    async with before_faults(more=more) as (stack, backend):
        backend.model.max_model_len = backend.model.length = 10_000_000
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port, limit=1024)
        writer.write(request(body=STREAM | {"max_tokens": 1_000_000}))
        await reader.readexactly(10)
        (seen,) = backend.log.to("/v1/chat/completions")
        before = -1
        async with asyncio.timeout(20):
            while seen.tokens_sent != before:  # until it stands still
                before = seen.tokens_sent
                await asyncio.sleep(0.3)
        assert 0 < seen.tokens_sent < 200_000
        assert seen.state == "running"
        writer.transport.abort()
        await backend.log.wait_for_state("aborted")


async def test_the_openai_client_raises_where_a_stream_breaks_and_never_takes_it_for_whole() -> None:
    async with (
        before_faults() as (stack, backend),
        openai.AsyncOpenAI(base_url=stack.gateway.url + "/v1", api_key="x", max_retries=0) as client,
    ):
        backend.inject(fault("silent_cut", after=3))
        received: list[str] = []

        async def read() -> None:
            async for chunk in await client.chat.completions.create(**STREAM):  # type: ignore[call-overload]
                received.append(chunk.choices[0].delta.content or "")  # noqa: PERF401 - extend would lose it

        with pytest.raises(openai.APIError) as caught:
            await read()
    assert "".join(received) == count_text(1, 3)
    assert caught.value.code == "generation_failed"
