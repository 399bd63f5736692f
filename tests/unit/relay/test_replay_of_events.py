"""Answers of /v1/messages and /v1/responses that break anywhere and are made again: what the client gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.relay.sse import document_of, split
from tests.support.resuming import UNRESUMED, Stage

MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
CAPTURED = Path(__file__).parents[2] / "support" / "vllm" / "captured"


def asked(path: str, **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"model": "tiny", "stream": True, "temperature": 0}
    if path == MESSAGES:
        body |= {"messages": [{"role": "user", "content": "euro from 7 please"}], "max_tokens": 24}
    else:
        body |= {"input": "euro from 7 please", "max_output_tokens": 24}
    return body | fields


@dataclass(frozen=True)
class Events:
    """What a client makes of a stream. `kinds` has deltas in a row once; `sequence` are the events' numbers."""

    text: str
    kinds: tuple[str, ...]
    names: tuple[Any, ...]
    sequence: tuple[int, ...]
    last: Any

    @classmethod
    def of(cls, stream: bytes) -> Events:
        documents = [document for frame in split(stream) if (document := document_of(frame)) is not None]
        deltas = [d["delta"] for d in documents if d["type"].endswith("delta") and d["type"] != "message_delta"]
        names = {d["item_id"] for d in documents if "item_id" in d}
        names |= {d["item"]["id"] for d in documents if "item" in d}
        names |= {d["response"]["id"] for d in documents if "response" in d}
        names |= {item["id"] for d in documents for item in d.get("response", {}).get("output", ())}
        last = next((d for d in reversed(documents) if d["type"] in ("message_delta", "response.completed")), None)
        return cls(
            "".join(delta if isinstance(delta, str) else delta["text"] for delta in deltas),
            tuple(kind for kind, _ in groupby(d["type"] for d in documents)),
            tuple(sorted(names)),
            tuple(d["sequence_number"] for d in documents if "sequence_number" in d),
            _without_names(last),
        )


def _without_names(event: Any) -> Any:
    """The event without what is random in it."""
    if event is None or "response" not in event:
        return event
    response = event["response"]
    output = [item | {"id": ""} for item in response["output"]]
    return event | {"response": response | {"id": "", "created_at": 0, "output": output}, "sequence_number": 0}


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
@given(
    frames=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 20_000), max_size=2),
    stop=st.sampled_from([None, " 9", "€"]),
)
@example(frames=[1], cuts=[1], stop=None)
@example(frames=[2, 3], cuts=[4000, 1500], stop=" 9")
def test_the_client_gets_the_undisturbed_answer_wherever_it_breaks(
    path: str, frames: Sequence[int], cuts: Sequence[int], stop: str | None
) -> None:
    fields = {"stop_sequences": [stop]} if stop is not None and path == MESSAGES else {}
    stage = Stage(path, asked(path, **fields), tokens_per_frame=frames)
    right, got = Events.of(stage.undisturbed()), Events.of(stage.client_gets(cuts))
    assert got.text == right.text
    assert got.kinds == right.kinds
    assert got.last == right.last
    assert len(got.names) == len(right.names)
    assert got.sequence == tuple(range(len(got.sequence)))


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
def test_it_breaks_after_each_single_event(path: str) -> None:
    stage = Stage(path, asked(path), tokens_per_frame=[1, 2])
    right, end = Events.of(stage.undisturbed()), 0
    for frame in split(stage.undisturbed()):
        end += len(frame)
        got = Events.of(stage.client_gets([end]))
        assert (got.text, got.kinds, got.last) == (right.text, right.kinds, right.last), frame


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (MESSAGES, {"temperature": 0.7}),
        (MESSAGES, {"temperature": 0.7, "seed": 3}),
        (RESPONSES, {"temperature": 0.7}),
        (RESPONSES, {"previous_response_id": "resp_1"}),
        (RESPONSES, {"background": True}),
    ],
)
def test_what_would_be_a_guess_is_not_made_again(path: str, fields: dict[str, Any]) -> None:
    assert Stage(path, asked(path, **fields)).client_gets([3000]).endswith(UNRESUMED)


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
@pytest.mark.parametrize("prompt", ["from 3 please", "euro from 7 pleas", "count"])
def test_another_answer_ends_in_the_typed_error_behind_what_is_right(path: str, prompt: str) -> None:
    stage = Stage(path, asked(path))
    right, answer = stage.undisturbed(), stage.model.answer

    def another(*given: Any, **named: Any) -> Any:
        if given[2]["x-request-id"] != "try-0":
            given = (*given[:3], given[3].replace(b"euro from 7 please", prompt.encode()))
        return answer(*given, **named)

    stage.model = type("Other", (), {"answer": staticmethod(another)})()
    got = stage.client_gets([3200])
    whole = Events.of(right)
    told = Events.of(got.removesuffix(UNRESUMED))
    assert whole.text.startswith(told.text)
    assert got.endswith(UNRESUMED) is (told.text != whole.text)


@pytest.mark.parametrize(("path", "name"), [(MESSAGES, "messages"), (RESPONSES, "responses")])
def test_the_fault_backend_says_them_as_vllm_does(path: str, name: str) -> None:
    """Event lines, members and their order, against what vLLM 0.32 sent."""
    said = _outlines((CAPTURED / f"{name}.txt").read_bytes())
    ours = _outlines(Stage(path, asked(path)).undisturbed())
    assert [outline for outline, _ in groupby(ours)] == [outline for outline, _ in groupby(said)]


def _outlines(stream: bytes) -> list[str]:
    return [f"{frame[: frame.find(b'data:')]!r} {_outline(orjson.loads(frame.partition(b'data: ')[2]))}"
            for frame in split(stream)]  # fmt: skip


def _outline(value: Any) -> Any:
    if isinstance(value, dict):
        return [(name, _outline(each)) for name, each in value.items()]
    if isinstance(value, list):
        return [_outline(each) for each in value]
    return type(value).__name__
