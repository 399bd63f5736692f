from __future__ import annotations

import json

import pytest

from backends.answers import MAX_PARSED
from backends.dialect import Usage
from backends.registry import dialect_for

ROWS = [
    ("openai", {"usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}}, Usage(5, 3)),
    ("openai", {"object": "list", "data": [], "usage": {"prompt_tokens": 9, "total_tokens": 9}}, Usage(9, 0)),
    ("openai", {"usage": {"prompt_tokens": 5, "completion_tokens": None}}, Usage(5, 0)),
    ("openai", {"usage": {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}}, Usage(7, 2)),
    (
        "openai",
        {"type": "response.completed", "response": {"usage": {"input_tokens": 7, "output_tokens": 2}}},
        Usage(7, 2),
    ),
    ("vllm", {"choices": [], "usage": {"prompt_tokens": 5, "total_tokens": 8, "completion_tokens": 3}}, Usage(5, 3)),
    ("anthropic", {"type": "message", "usage": {"input_tokens": 12, "output_tokens": 6}}, Usage(12, 6)),
    (
        "anthropic",
        {"type": "message_start", "message": {"usage": {"input_tokens": 12, "output_tokens": 1}}},
        Usage(12, 1),
    ),
    ("anthropic", {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 15}}, Usage(0, 15)),
    (
        "tgi",
        {"generated_text": "x", "details": {"generated_tokens": 20, "prefill": [{"id": 1}, {"id": 2}]}},
        Usage(2, 20),
    ),
    ("tgi", [{"generated_text": "x", "details": {"generated_tokens": 4, "prefill": []}}], Usage(0, 4)),
    ("tgi", {"token": {}, "details": {"generated_tokens": 20, "input_length": 11}}, Usage(11, 20)),
    ("ollama", {"done": True, "prompt_eval_count": 26, "eval_count": 298}, Usage(26, 298)),
    ("llamacpp", {"content": "x", "tokens_evaluated": 8, "tokens_predicted": 16}, Usage(8, 16)),
    ("openai", {"choices": []}, None),
    ("openai", {"choices": [], "usage": None}, None),
    ("openai", {"usage": {"seconds": 3}}, None),
    ("openai", [], None),
    ("openai", {"usage": {"prompt_tokens": -5, "completion_tokens": "3"}}, Usage(0, 0)),
]


@pytest.mark.parametrize(("kind", "body", "expected"), ROWS)
def test_usage_of_an_answer(kind, body, expected):
    assert dialect_for(kind).usage(json.dumps(body).encode()) == expected


@pytest.mark.parametrize("garbage", [b"", b"<html>", b'{"usage":', b'{"usage":{"prompt_tokens":1'])
def test_garbage_has_no_usage(garbage):
    assert dialect_for("vllm").usage(garbage) is None


def test_usage_at_the_end_of_a_large_body_is_found():
    body = {"data": ["A" * MAX_PARSED], "usage": {"prompt_tokens": 40, "prompt_tokens_details": {"cached_tokens": 8}}}

    assert dialect_for("vllm").usage(json.dumps(body).encode()) == Usage(40, 0)


def test_a_large_answers_text_is_not_taken_for_its_usage():
    text = json.dumps({"usage": {"prompt_tokens": 666, "completion_tokens": 666}})

    assert dialect_for("vllm").usage(json.dumps({"text": "A" * MAX_PARSED + text}).encode()) is None
