"""A 200 is an answer only if its body is one."""

from __future__ import annotations

import json

import pytest

from backends.answers import MAX_PARSED
from policies.outcome import Blame, ErrorKind

K = ErrorKind
CHAT = "/v1/chat/completions"
ANSWER = {"id": "c1", "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": None}
LARGE = b'{"data":[{"embedding":"' + b"A" * MAX_PARSED + b'"}]}'
JSON = {"content-type": "application/json; charset=utf-8"}

GOOD = [
    ("chat", CHAT, JSON, ANSWER),
    ("no content type", CHAT, {}, ANSWER),
    ("an answer that speaks of errors", CHAT, JSON, ANSWER | {"content": "error: out of memory <html>"}),
    ("error: null", "/v1/responses", JSON, {"status": "completed", "error": None, "output": []}),
    ("a list", "/v1/embeddings", JSON, b"[[0.1,0.2]]"),
    ("a large body", "/v1/embeddings", JSON, LARGE),
    ("a large body and white space", "/v1/embeddings", JSON, LARGE + b"\n\n"),
    ("speech", "/v1/audio/speech", {"content-type": "audio/mpeg"}, b"\xff\xf3\x44\xc4"),
    ("speech without a precise type", "/v1/audio/speech", {"content-type": "application/octet-stream"}, b"\xff\xf3"),
    ("an image", "/v1/images/generations", {"content-type": "image/png"}, b"\x89PNG\r\n\x1a\n"),
    ("a transcript as text", "/v1/audio/transcriptions", {"content-type": "text/plain; charset=utf-8"}, b"Hello.\n"),
    ("an endpoint we do not know", "/v1/files/f1/content", {"content-type": "text/csv"}, b"a,b\n"),
    ("a transcript as VTT", "/v1/audio/transcriptions", {"content-type": "text/vtt"}, b"WEBVTT\n"),
]


@pytest.mark.parametrize(("path", "headers", "body"), [row[1:] for row in GOOD], ids=[row[0] for row in GOOD])
@pytest.mark.parametrize("dialect", ["vllm", "tgi", "anthropic", "diffusers"])
def test_good_answer(judge, dialect, path, headers, body):
    assert judge(dialect, 200, body, headers, path) is None


def test_no_content_is_an_answer(judge):
    assert judge("openai", 204, b"", {}) is None


HTML = "<!DOCTYPE html><html><body>Please log in to the hotel's network</body></html>"
BAD = [
    ("HTML", CHAT, {"content-type": "text/html"}, HTML),
    ("HTML that claims to be JSON", CHAT, JSON, HTML),
    ("HTML for speech", "/v1/audio/speech", {"content-type": "text/html"}, HTML),
    ("HTML for a transcript", "/v1/audio/transcriptions", {"content-type": "text/plain"}, HTML),
    ("cut JSON", CHAT, JSON, json.dumps(ANSWER)[:-20]),
    ("cut after an inner bracket", CHAT, JSON, b'{"choices":[{"message":{"content":"hi"}}'),
    ("a large body, cut", "/v1/embeddings", JSON, LARGE[:-3]),
    ("a large body, cut at its start", "/v1/embeddings", JSON, LARGE[1:]),
    ("empty", CHAT, JSON, b""),
    ("empty speech", "/v1/audio/speech", {"content-type": "audio/mpeg"}, b""),
    ("text", CHAT, {"content-type": "text/plain"}, b"OK"),
    ("an endpoint we do not know, JSON promised", "/v1/batches", JSON, b"a,b\n"),
    ("a string", CHAT, JSON, b'"fine"'),
    ("null", CHAT, JSON, b"null"),
    ("bad UTF-8", CHAT, JSON, b'{"choices":[{"text":"\xff"}]}'),
    ("trailing garbage", CHAT, JSON, b"{}}"),
    ("the engine gave up", CHAT, JSON, {"choices": [{"message": {"content": "once"}, "finish_reason": "abort"}]}),
    ("the provider gave up", CHAT, JSON, {"choices": [{"message": {"content": "a"}, "finish_reason": "error"}]}),
]


@pytest.mark.parametrize(("path", "headers", "body"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
@pytest.mark.parametrize("dialect", ["vllm", "sglang", "ollama"])
def test_bad_answer_is_the_endpoints_failure(judge, dialect, path, headers, body):
    failure = judge(dialect, 200, body, headers, path)

    assert (failure.kind, failure.blame, failure.status) == (K.GENERATION_FAILED, Blame.ENDPOINT, 200)


IN_BAND = [
    (
        "vLLM",
        "vllm",
        {"error": {"message": "x must be positive", "type": "BadRequestError", "code": 400}},
        K.INVALID_INPUT,
    ),
    ("an object without a code", "openai", {"error": {"message": "boom"}}, K.GENERATION_FAILED),
    ("a string", "ollama", {"error": "cudaMalloc failed: out of memory"}, K.OUT_OF_MEMORY),
    ("flat", "sglang", {"object": "error", "message": "The request queue is full.", "code": 503}, K.MODEL_OVERLOADED),
    ("a status in words", "openai", {"error": {"message": "slow down", "code": "429"}}, K.MODEL_OVERLOADED),
    (
        "a failed response",
        "openai",
        {"status": "failed", "error": {"code": "server_error", "message": "The model failed"}, "output": []},
        K.GENERATION_FAILED,
    ),
    ("native", "diffusers", {"error": "GPU is full", "error_type": "out_of_memory"}, K.OUT_OF_MEMORY),
]


@pytest.mark.parametrize(("dialect", "body", "kind"), [row[1:] for row in IN_BAND], ids=[row[0] for row in IN_BAND])
def test_an_error_with_status_200_is_an_error(judge, dialect, body, kind):
    assert judge(dialect, 200, body).kind is kind
