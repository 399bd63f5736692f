"""Replay over Anthropic's events, and what may not be replayed."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.relay.delivered import NO_WISHES, Delivered
from gateway.relay.journal import Journal
from gateway.relay.passage import Continued, DivergedError, Replayed
from gateway.relay.sse import ANTHROPIC, split


def _events(id_: str, *blocks: tuple[str, list[str]]) -> list[bytes]:
    """A Messages stream; each block is its kind (text or thinking) and its pieces."""
    documents: list[dict[str, Any]] = [{"type": "message_start", "message": {"id": id_, "role": "assistant"}}]
    for index, (kind, pieces) in enumerate(blocks):
        documents.append({"type": "content_block_start", "index": index, "content_block": {"type": kind, kind: ""}})
        documents += [
            {"type": "content_block_delta", "index": index, "delta": {"type": f"{kind}_delta", kind: piece}}
            for piece in pieces
        ]
        documents.append({"type": "content_block_stop", "index": index})
    documents += [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, {"type": "message_stop"}]
    return [b"event: %b\ndata: %b\n\n" % (str(d["type"]).encode(), orjson.dumps(d)) for d in documents]


def _delivered(events: list[bytes]) -> Delivered:
    journal = Journal()
    journal.add(b"".join(events))
    return Delivered.of(journal, "/v1/messages")


def _types_and_text(stream: bytes) -> tuple[list[str], dict[int, str]]:
    types, texts = [], dict[int, str]()
    for frame in split(stream):
        document = orjson.loads(frame.split(b"data: ")[1])
        types.append(document["type"])
        delta = document.get("delta", {})
        if document["type"] == "content_block_delta":
            index = document["index"]
            texts[index] = texts.get(index, "") + (delta.get("text") or delta.get("thinking"))
    return [
        kind for place, kind in enumerate(types) if kind not in types[:place] or kind != "content_block_delta"
    ], texts


_WHOLE = _events("msg_a", ("thinking", ["hm", "m", "…"]), ("text", ["The ", "sea", " is wide."]))


@pytest.mark.parametrize(
    "cut", [place for place, event in enumerate(_WHOLE) if b"_delta" in event and b"block" in event]
)
def test_a_messages_stream_cut_after_any_delta_is_replayed(cut: int) -> None:
    sent = _WHOLE[: cut + 1]
    again = _events("msg_b", ("thinking", ["hmm", "…"]), ("text", ["The sea", " ", "is wide."]))
    passage = Replayed(_delivered(sent), ANTHROPIC, strip=False, wishes=NO_WISHES)
    stream = b"".join(sent) + passage.feed(b"".join(again))
    assert _types_and_text(stream) == _types_and_text(b"".join(_WHOLE))
    assert b"msg_b" not in stream


@pytest.mark.parametrize(
    "again",
    [
        _events("msg_b", ("text", ["The sea"])),
        _events("msg_b", ("thinking", ["hmm, well"]), ("text", ["The sea"])),
        _events("msg_b", ("thinking", ["hmm…"]), ("text", ["The moon"])),
        _events("msg_b", ("thinking", ["hmm…"])),
    ],
)
def test_what_differs_is_never_sent(again: list[bytes]) -> None:
    passage = Replayed(_delivered(_WHOLE[:9]), ANTHROPIC, strip=False, wishes=NO_WISHES)
    with pytest.raises(DivergedError):
        passage.feed(b"".join(again))


@pytest.mark.parametrize(
    "choices", ["x", [1], {"a": 1}, [{"index": 0, "text": 5}], [{"index": {}, "text": "z"}], [{"logprobs": {"a": 1}}]]
)
def test_a_frame_of_a_continuation_that_is_no_text_is_another_answer(choices: Any) -> None:
    passage = Continued(Delivered("/v1/completions", ids=[1]), NO_WISHES, carried="", stops=None)
    with pytest.raises(DivergedError):
        passage.feed(b"data: " + orjson.dumps({"choices": choices}) + b"\n\n")


def test_ids_that_are_none_are_not_counted() -> None:
    passage = Continued(Delivered("/v1/completions", ids=[1]), NO_WISHES, carried="", stops=None)
    frame = passage.feed(b"data: " + orjson.dumps({"choices": [{"index": 0, "text": "z", "token_ids": 5}]}) + b"\n\n")
    assert b'"text":"z"' in frame
    assert passage.completion_tokens == 1
