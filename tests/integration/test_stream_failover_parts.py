"""Streams with more than one text in them: tool calls, reasoning, structured output, logprobs. Exact, or an error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from gateway.relay.sse import split
from tests.integration.test_never_wrong import POLICY, SSE
from tests.support.gateway import Answer, RunningGateway, running_gateway
from tests.support.rogue import RogueBackend

DONE = b"data: [DONE]\n\n"
CALL = {"index": 0, "id": "call-1", "type": "function", "function": {"name": "look", "arguments": ""}}
ARGUMENTS = [{"index": 0, "function": {"arguments": part}} for part in ('{"at":', ' "sea"}')]


def frames(*deltas: dict[str, Any], name: str = "one", finish: str | None = None, **more: Any) -> bytes:
    """A chat stream, or its beginning: a role, these deltas, and the end where there is a `finish`."""
    choices: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} | more for delta in deltas]
    choices.insert(0, {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None})
    if finish is not None:
        choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    head = {"id": name, "object": "chat.completion.chunk", "created": 7, "model": "tiny"}
    return b"".join(b"data: " + orjson.dumps(head | {"choices": [choice]}) + b"\n\n" for choice in choices)


def text(*parts: str, name: str = "content") -> list[dict[str, Any]]:
    return [{name: part} for part in parts]


@asynccontextmanager
async def breaking(cut: bytes, other: bytes, *, at_once: bool = True) -> AsyncIterator[RunningGateway]:
    """A gateway whose first backend says `cut` and leaves; the second says the other, frame by frame or at once."""
    async with RogueBackend() as bad, RogueBackend() as good:
        bad.says, good.says = SSE + cut, SSE + other if at_once else [SSE, *split(other)]
        backends = "".join(
            f"  {name}: {{url: '{rogue.url}', kind: openai, weight: {weight}, health: {{interval: 60s}}}}\n"
            for name, rogue, weight in (("bad", bad, 1000), ("good", good, 1))
        )
        config = f"backends:\n{backends}routes: [{{model: tiny, backends: [bad, good]}}]\n{POLICY}"
        async with running_gateway(config) as gateway:
            yield gateway


async def answered(gateway: RunningGateway, **asked: Any) -> Answer:
    answer = await gateway.chat(stream=True, **({"temperature": 0} | asked))
    assert answer.headers["x-seawall-backend"] == "bad"
    return answer


def deltas(answer: Answer) -> list[dict[str, Any]]:
    """What the client got, role and empty ones left out; all under one id, with one role."""
    found = [orjson.loads(frame) for frame in answer.frames if frame != "[DONE]"]
    parts = [document for document in found if "choices" in document]
    assert {document["id"] for document in parts} == {"one"}
    assert sum("role" in document["choices"][0]["delta"] for document in parts) == 1
    made = [document["choices"][0]["delta"] for document in parts]
    return [delta for delta in made if "role" not in delta and any(delta.values())]


def joined(answer: Answer, name: str) -> str:
    return "".join(delta.get(name) or "" for delta in deltas(answer))


async def test_an_answer_that_breaks_before_its_tool_call_goes_on_with_it() -> None:
    calls = [{"tool_calls": [part]} for part in (CALL, *ARGUMENTS)]
    whole = frames(*text("Let", " me look", "."), *calls, name="two", finish="tool_calls") + DONE
    async with breaking(frames(*text("Let me", " lo")), whole) as gateway:
        answer = await answered(gateway, tools=[{"type": "function", "function": {"name": "look"}}])
    assert joined(answer, "content") == "Let me look."
    assert [delta for delta in deltas(answer) if "tool_calls" in delta] == calls
    assert answer.frames[-1] == "[DONE]"


async def test_a_tool_call_that_breaks_ends_in_an_error_with_nothing_of_it_twice() -> None:
    calls = [{"tool_calls": [part]} for part in (CALL, *ARGUMENTS)]
    async with breaking(frames(*calls[:2]), frames(*calls, name="two", finish="tool_calls") + DONE) as gateway:
        answer = await answered(gateway)
    assert answer.error["error_type"] == "generation_failed"
    assert deltas(answer) == calls[:2]


async def test_a_tool_call_that_lacks_only_the_end_of_the_stream_is_whole() -> None:
    calls = [{"tool_calls": [part]} for part in (CALL, *ARGUMENTS)]
    async with breaking(frames(*calls, finish="tool_calls"), b"") as gateway:
        answer = await answered(gateway)
    assert deltas(answer) == calls
    assert answer.frames[-1] == "[DONE]"


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize("begun", [text("Th"), [*text("Think", "."), {"content": "Se"}]], ids=["in", "behind"])
async def test_reasoning_is_made_again_to_where_it_broke(name: str, begun: list[dict[str, Any]]) -> None:
    def of(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{name: part["content"]} if part["content"] in ("Th", "Think", ".") else part for part in parts]

    whole = frames(*of(text("Think", ".", "S", "ea")), name="two", finish="stop") + DONE
    async with breaking(frames(*of(begun)), whole) as gateway:
        answer = await answered(gateway)
    assert (joined(answer, name), joined(answer, "content")) == ("Think.", "Sea")
    assert answer.frames[-1] == "[DONE]"


@pytest.mark.parametrize(
    "asked", [{"response_format": {"type": "json_object"}}, {"stop": ["x"]}, {"presence_penalty": 0.5}, {"seed": 5}]
)
async def test_what_shapes_the_whole_answer_is_made_again_if_it_must_come_out_the_same(asked: dict[str, Any]) -> None:
    cut, whole = frames(*text('{"a"', ":")), frames(*text("{", '"a": ', "1}"), name="two", finish="stop") + DONE
    async with breaking(cut, whole) as gateway:
        answer = await answered(gateway, **asked)
        sampled = None if "seed" in asked else await gateway.chat(stream=True, **asked)
    assert joined(answer, "content") == '{"a": 1}'
    assert answer.frames[-1] == "[DONE]"
    if sampled is not None:
        assert sampled.error["error_type"] == "generation_failed"


@pytest.mark.parametrize("at_once", [True, False], ids=["in_one_piece", "piece_by_piece"])
@pytest.mark.parametrize("done", [True, False], ids=["whole", "cut"])
async def test_an_answer_that_comes_out_another_ends_in_an_error_however_it_comes(at_once: bool, done: bool) -> None:
    """Its end may be there before it is seen that it is another: that end is not this answer's."""
    other = frames(*text("1", " 3", " 4"), name="two", finish="stop") + DONE * done
    async with breaking(frames(*text("1 2")), other, at_once=at_once) as gateway:
        answer = await answered(gateway)
    assert answer.error["error_type"] == "generation_failed"
    assert joined(answer, "content") == "1 2"


async def test_logprobs_that_went_out_are_not_compared_so_their_stream_ends_in_an_error() -> None:
    some = {"logprobs": {"content": [{"token": "1", "logprob": -0.1, "bytes": None, "top_logprobs": []}]}}
    whole = frames(*text("1", " 2"), name="two", finish="stop", **some) + DONE
    async with breaking(frames(*text("1"), **some), whole) as gateway:
        answer = await answered(gateway, logprobs=True)
    assert answer.error["error_type"] == "generation_failed"
    assert joined(answer, "content") == "1"


ODD: dict[str, dict[str, Any]] = {
    "choices_text": {"choices": "x"},
    "choices_numbers": {"choices": [1]},
    "choices_object": {"choices": {"a": 1}},
    "delta_list": {"choices": [{"index": 0, "delta": ["a"]}]},
    "text_number": {"choices": [{"index": 0, "text": 5}]},
    "index_text": {"choices": [{"index": "q", "delta": {"content": "z"}}]},
    "index_object": {"choices": [{"index": {}, "delta": {"content": "z"}}]},
    "ids_number": {"choices": [{"index": 0, "delta": {"content": ""}, "token_ids": 5}]},
    "prompt_number": {"choices": [{"index": 0, "delta": {"content": ""}}], "prompt_token_ids": 5},
    "type_number": {"type": 5},
    "type_with_index": {"type": "content_block_delta", "index": [], "delta": {"type": "text_delta", "text": "z"}},
    "item_with_index": {"type": "response.output_item.added", "output_index": {}, "item": {"id": "i"}},
    "usage_text": {"choices": [], "usage": "s"},
}


@pytest.mark.parametrize("where", ["before", "behind"])
@pytest.mark.parametrize("name", ODD)
async def test_whatever_a_frame_of_it_is_a_broken_stream_is_whole_or_ends_in_an_error(name: str, where: str) -> None:
    odd = b"data: " + orjson.dumps({"id": "one"} | ODD[name]) + b"\n\n"
    parts = list(split(frames(*text("1", " 2"), name="two", finish="stop")))
    parts.insert(2, odd if where == "behind" else b"")
    cut = frames(*text("1")) + (odd if where == "before" else b"")
    async with breaking(cut, b"".join(parts) + DONE) as gateway:
        answer = await answered(gateway)
    last = answer.frames[-1]
    assert last == "[DONE]" or orjson.loads(last)["error"]["error_type"] == "generation_failed"
