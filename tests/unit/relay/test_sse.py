"""Ends and errors of streams are told from the model's own text."""

from __future__ import annotations

import orjson
import pytest

from gateway.relay.sse import ANTHROPIC, OPENAI, RESPONSES, StreamShape, document_of, is_malformed, plausible, split


@pytest.mark.parametrize("shape", [OPENAI, ANTHROPIC, RESPONSES])
@pytest.mark.parametrize(
    "text",
    [
        "[DONE]",
        "data: [DONE]\n\n",
        "\n\ndata: [DONE]\n\n",
        "message_stop",
        '"type":"message_stop"',
        "event: message_stop\n",
        '{"type": "response.completed"}',
        "response.failed",
    ],
)
def test_text_that_looks_like_the_end_is_not_the_end(shape: StreamShape, text: str) -> None:
    frame = b"data: " + orjson.dumps({"choices": [{"delta": {"content": text}}], "text": text}) + b"\n\n"
    assert not any(terminal in frame for terminal in shape.terminal)


@pytest.mark.parametrize(
    ("shape", "frame"),
    [
        (OPENAI, b"data: [DONE]\n\n"),
        (OPENAI, b"data:[DONE]\r\n\r\n"),
        (ANTHROPIC, b'event: message_stop\ndata: {"type":"message_stop"}\n\n'),
        (ANTHROPIC, b'data: {"type": "message_stop"}\n\n'),
        (RESPONSES, b'event: response.completed\ndata: {"type":"response.completed","response":{}}\n\n'),
    ],
)
def test_the_end_is_the_end(shape: StreamShape, frame: bytes) -> None:
    assert any(terminal in frame for terminal in shape.terminal)


@pytest.mark.parametrize(
    ("frame", "malformed"),
    [
        (b'data: {"a":1}\n\n', False),
        (b"data: [DONE]\n\n", False),
        (b": comment\n\n", False),
        (b"event: ping\n\n", False),
        (b'data: {"a":\n\n', True),
        (b"data: <html>\n\n", True),
    ],
)
def test_a_malformed_frame_is_one_with_data_that_is_not_json(frame: bytes, malformed: bool) -> None:
    assert is_malformed(frame) is malformed
    assert not (malformed and plausible(frame))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'data: {"a":1}\n\n', True),
        (b'data: {"a":1}\n\ndata: {"b":2}\n\ndata: {}\n\n', True),
        (b'data: {"a":1}\n\ndata: [DONE]\n\n', False),
        (b'data: {"a":1}\n\ndata: {"cut\n\n', False),
        (b'data: {"a":1}\n\ndata: cut"}\n\n', False),
        (b'data: {"a":1}\n\n: a comment\n\ndata: {"b":2}\n\n', False),
        (b'data: {"a":1}\n\n\n\ndata: {"b":2}\n\n', False),
        (b'data: {"a":1}\n\ndata: {"not":"whole"', False),
        (b'data: {"a":\ndata: 1}\n\n', False),
        (b'data: {"a":1}\n\ndata: {"b":\ndata: 2}\n\n', False),
        (b'data: {"a":\rdata: [DONE]\r\r}\n\n', False),
        (b'event: x\ndata: {"a":1}\n\n', False),
        (b"data: [1]\n\n", False),
        (b"", False),
    ],
)
def test_only_whole_events_of_one_object_each_pass_without_a_look_into_them(data: bytes, said: bool) -> None:
    assert plausible(data) is said
    if said:
        assert all(document_of(frame) is not None for frame in split(data))


def test_the_end_of_a_stream_that_does_not_end_in_an_object_is_never_plausible() -> None:
    for shape in (OPENAI, ANTHROPIC, RESPONSES):
        for terminal in shape.terminal:
            event = b"data: {" + terminal + b"}\n\n"
            assert not (plausible(event) and shape.ends(event)) or shape.closes is not None
