"""Token ids are asked for and taken out of frames by bytes, exactly as a JSON parser would."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.relay.token_ids import asking_for_ids, without_ids

_ADDED = ("token_ids", "prompt_token_ids", "prompt_text")
#: Text that looks like what is to be taken out.
_NASTY = st.sampled_from(
    [
        'token_ids"',
        '"token_ids":[1,2]',
        ',"token_ids":[',
        '\\",\\"token_ids\\":[1]',
        "token_ids",
        '"prompt_text":null',
        ',"prompt_text":null',
        "\\",
        '"',
        "]",
        "data: {",
        "\u2028é€😀",
    ]
)
_TEXT = st.lists(_NASTY | st.text(max_size=8), max_size=4).map("".join)
_IDS = st.lists(st.integers(0, 2**31), max_size=5)


@st.composite
def _documents(draw: st.DrawFn) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "delta": {"content": draw(_TEXT)}, "finish_reason": None}
    if draw(st.booleans()):
        choice["token_ids"] = draw(st.none() | _IDS)
    document: dict[str, Any] = {"id": draw(_TEXT), "choices": [choice], "model": draw(_TEXT)}
    if draw(st.booleans()):
        document |= {"prompt_token_ids": draw(st.none() | _IDS), "prompt_text": draw(st.none() | _TEXT)}
    if draw(st.booleans()):
        document = {"token_ids": draw(_IDS)} | document
    return document


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _pruned(inner) for name, inner in value.items() if name not in _ADDED}
    return [_pruned(inner) for inner in value] if isinstance(value, list) else value


@given(st.lists(_documents(), min_size=1, max_size=4), st.booleans())
def test_what_is_left_is_what_a_json_parser_would_leave(documents: list[dict[str, Any]], spaced: bool) -> None:
    frames = b""
    for document in documents:
        data = orjson.dumps(document)
        if spaced:
            data = data.replace(b'"token_ids":[', b'"token_ids": [')
            if orjson.loads(data) != document:  # text was changed: not what is tested here
                data = orjson.dumps(document)
        frames += b"data: " + data + b"\n\n"
    found = without_ids(frames + b": a comment\n\ndata: [DONE]\n\n").split(b"\n\n")
    assert [orjson.loads(frame[6:]) for frame in found[:-3]] == [_pruned(document) for document in documents]
    assert found[-3:] == [b": a comment", b"data: [DONE]", b""]


@given(_documents())
def test_a_frame_without_ids_is_passed_on_as_it_came(document: dict[str, Any]) -> None:
    frame = b"data: " + orjson.dumps(_pruned(document)) + b"\n\n"
    assert without_ids(frame) == frame


@pytest.mark.parametrize("start", [b"{", b' \n {"a":1,', b"\t{"])
def test_a_request_is_changed_by_one_member(start: bytes) -> None:
    body = start + b'"model":"m","messages":[{"return_token_ids":false}]}'
    expected = orjson.loads(body) | {"return_token_ids": True}
    assert orjson.loads(asking_for_ids(body, says=False)) == expected
    assert orjson.loads(asking_for_ids(b'{"return_token_ids":false}', says=True)) == {"return_token_ids": True}
