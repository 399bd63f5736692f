"""Errors inside a stream, and content that only looks like one."""

from __future__ import annotations

import json

import pytest

from backends.answers import MAX_PARSED
from backends.registry import dialect_for
from policies.outcome import Blame, ErrorKind

K = ErrorKind
ERRORS = [
    (
        "vLLM 0.32, engine killed",
        "vllm",
        '{"error": {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause.", "type": '
        '"InternalServerError", "param": null, "code": 500}}',
        K.GENERATION_FAILED,
    ),
    (
        "vLLM, bad request found late",
        "vllm",
        '{"error": {"message": "n must be 1 for beam search", "type": "BadRequestError", "param": null, "code": 400}}',
        K.INVALID_INPUT,
    ),
    (
        "SGLang, queue full",
        "sglang",
        '{"error": {"object": "error", "message": "The request queue is full.", "code": 503}}',
        K.MODEL_OVERLOADED,
    ),
    (
        "SGLang, hosted",
        "openai",
        '{"error":{"message":"Streaming response failed: [503] The request queue is full."}}',
        K.MODEL_OVERLOADED,
    ),
    (
        "TGI, out of memory, though it claims 422",
        "tgi",
        '{"error":{"message":"Request failed during generation: Server error: CUDA out of '
        'memory","http_status_code":422}}',
        K.OUT_OF_MEMORY,
    ),
    (
        "TGI, crash, though it claims 422",
        "tgi",
        '{"error":{"message":"Request failed during generation: Server error: transport '
        'error","http_status_code":422}}',
        K.GENERATION_FAILED,
    ),
    (
        "TGI, bad input",
        "tgi",
        '{"error":{"message":"Input validation error: `inputs` cannot be empty","http_status_code":422}}',
        K.INVALID_INPUT,
    ),
    (
        "TGI, too long",
        "tgi",
        '{"error":{"message":"Input validation error: `inputs` must have less than 1024 tokens. Given: 1500",'
        '"http_status_code":422}}',
        K.CONTEXT_LENGTH_EXCEEDED,
    ),
    (
        "TGI, native",
        "tgi",
        '{"error":"Incomplete generation stream","error_type":"incomplete_generation_stream"}',
        K.GENERATION_FAILED,
    ),
    (
        "llama.cpp",
        "llamacpp",
        '{"error":{"code":500,"message":"Compute error.","type":"server_error"}}',
        K.GENERATION_FAILED,
    ),
    ("Ollama", "ollama", '{"error":"model runner has unexpectedly stopped"}', K.GENERATION_FAILED),
    (
        "Anthropic, overloaded",
        "anthropic",
        '{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}',
        K.MODEL_OVERLOADED,
    ),
    (
        "Anthropic, internal",
        "anthropic",
        '{"type":"error","error":{"type":"api_error","message":"Internal server error"}}',
        K.GENERATION_FAILED,
    ),
    (
        "Responses, error event",
        "openai",
        '{"type":"error","code":"server_error","message":"boom","sequence_number":3}',
        K.GENERATION_FAILED,
    ),
    (
        "Responses, failed",
        "openai",
        '{"type":"response.failed","response":{"id":"r","status":"failed","error":{"code":"rate_limit_exceeded",'
        '"message":"slow down"}}}',
        K.MODEL_OVERLOADED,
    ),
    (
        "OpenRouter",
        "openai",
        '{"id":"g","error":{"code":"server_error","message":"Provider disconnected"},'
        '"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}',
        K.GENERATION_FAILED,
    ),
    ("a finish reason", "openai", '{"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}', K.GENERATION_FAILED),
    ("garbage", "vllm", '{"choices":[{"delta":{"content":"the "error"', K.GENERATION_FAILED),
    ("not an object", "vllm", '"error"', K.GENERATION_FAILED),
]


@pytest.mark.parametrize(("kind", "data", "expected"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS])
def test_an_error_frame_is_a_failure(kind, data, expected):
    failure = dialect_for(kind).classify_frame(data.encode())

    assert (failure.kind, failure.status) == (expected, 200)


CONTENT = [
    {"choices": [{"delta": {"content": 'say "error" please'}, "finish_reason": None}]},
    {"choices": [{"delta": {"tool_calls": [{"function": {"arguments": '{"error": "x"}'}}]}}]},
    {"choices": [{"delta": {}, "finish_reason": "stop"}], "error": None},
    {"choices": [{"delta": {"content": "error"}, "finish_reason": "content_filter"}]},
    {"type": "response.created", "response": {"id": "r", "error": None, "status": "in_progress"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "error"}},
]


@pytest.mark.parametrize("kind", ["vllm", "tgi", "openai", "anthropic"])
@pytest.mark.parametrize("value", CONTENT)
def test_content_about_errors_is_content(kind, value):
    assert dialect_for(kind).classify_frame(json.dumps(value).encode()) is None


def test_an_overload_in_a_stream_is_soft():
    failure = dialect_for("anthropic").classify_frame(
        b'{"type":"error","error":{"type":"overloaded_error","message":""}}'
    )

    assert failure.blame is Blame.SOFT


def test_a_long_event_with_no_error_in_it_is_content():
    event = {"type": "response.completed", "response": {"error": None, "output": ["A" * MAX_PARSED]}}

    assert dialect_for("openai").classify_frame(json.dumps(event).encode()) is None
