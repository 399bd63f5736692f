"""Streams that break after their first content and go on at another endpoint: the client sees nothing of it."""

from __future__ import annotations

import orjson
import pytest

from tests.integration.test_resilience import stack
from tests.support.counting_model import count_text
from tests.support.faults import fault
from tests.support.gateway import Answer

BREAKS = ["rst_mid_stream", "stall", "silent_cut", "engine_death", "giant_frame", "bad_chunk", "malformed_frame"]


def text_of(answer: Answer) -> str:
    """The text of a chat or completion stream."""
    found = ""
    for frame in answer.frames:
        if frame != "[DONE]":
            for choice in orjson.loads(frame).get("choices", ()):
                found += choice.get("text") or choice.get("delta", {}).get("content") or ""
    return found


def documents(answer: Answer) -> list[dict]:  # type: ignore[type-arg]
    """The JSON of a stream's events."""
    return [orjson.loads(frame) for frame in answer.frames if frame != "[DONE]"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("after", [1, 2, 5, 7])
@pytest.mark.parametrize("name", BREAKS)
async def test_a_broken_stream_goes_on_elsewhere_to_the_byte(name: str, after: int, path: str) -> None:
    async with stack() as (gateway, (bad, good)):
        bad.inject(fault(name, after=after))
        asked = {"model": "tiny", "max_tokens": 8, "stream": True}
        asked |= {"messages": [{"role": "user", "content": "count"}]} if "chat" in path else {"prompt": "count"}
        for _ in range(2):  # one of them meets the faulty endpoint first
            answer = await gateway.post(path, asked)
            assert text_of(answer) == count_text(1, 8)
            assert answer.frames[-1] == "[DONE]"
            found = documents(answer)
            assert len({(d["id"], d["created"], d["model"], d["object"]) for d in found}) == 1
            assert [d["choices"][0]["finish_reason"] for d in found if d["choices"]][-1] == "length"
            assert sum("role" in d["choices"][0].get("delta", {}) for d in found) == ("chat" in path)
            assert not any("token_ids" in frame for frame in answer.frames)
        assert sum(1 for _ in good.log.to("/v1/completions")) >= 1
