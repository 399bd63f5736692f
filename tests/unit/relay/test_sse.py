"""Ends and errors of streams are told from the model's own text."""

from __future__ import annotations

import orjson
import pytest

from gateway.relay.sse import ANTHROPIC, OPENAI, RESPONSES, StreamShape, is_malformed, plausible


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
