"""What is refused, in vLLM's exact words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.workers.embedded import protocol
from backends.workers.embedded.protocol import ChatRequest, CompletionRequest, RequestError

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


def refused(call: Any, *arguments: Any, **named: Any) -> dict[str, Any]:
    with pytest.raises(RequestError) as caught:
        call(*arguments, **named)
    error: dict[str, Any] = json.loads(caught.value.body)["error"]
    assert error["code"] == caught.value.status
    return error


def sampled(body: dict[str, Any]) -> Any:
    request = protocol.parse(ChatRequest, json.dumps(body).encode(), ["tiny"])
    return request.sampling(10, request.alternatives())


@pytest.mark.parametrize(
    ("changes", "message", "param"),
    [
        (
            {"temperature": -3},
            "temperature must be non-negative, got -3.0. (parameter=temperature, value=-3.0)",
            "temperature",
        ),
        ({"top_p": 0}, "top_p must be in (0, 1], got 0.0. (parameter=top_p, value=0.0)", "top_p"),
        ({"top_p": 1.1}, "top_p must be in (0, 1], got 1.1. (parameter=top_p, value=1.1)", "top_p"),
        ({"n": 0}, "n must be at least 1, got 0.", None),
        ({"n": 2, "temperature": 0}, "n must be 1 when using greedy sampling, got 2.", None),
        ({"presence_penalty": 2.1}, "presence_penalty must be in [-2, 2], got 2.1.", None),
        ({"frequency_penalty": -2.1}, "frequency_penalty must be in [-2, 2], got -2.1.", None),
        ({"repetition_penalty": 0}, "repetition_penalty must be greater than zero, got 0.0.", None),
        ({"min_p": -0.1}, "min_p must be in [0, 1], got -0.1.", None),
        ({"top_k": -2}, "top_k must be 0 (disable), or at least 1, got -2.", None),
        ({"min_tokens": -1}, "min_tokens must be greater than or equal to 0, got -1.", None),
        ({"min_tokens": 11}, "min_tokens must be less than or equal to max_tokens=10, got 11.", None),
        ({"stop": ""}, "stop cannot contain an empty string.", None),
        ({"stop": ["done", ""]}, "stop cannot contain an empty string.", None),
        (
            {"logprobs": True, "top_logprobs": 21},
            "Requested sample logprobs of 21, which is greater than max allowed: 20 (parameter=logprobs, value=21)",
            "logprobs",
        ),
        (
            {"stream_options": {"include_usage": True}},
            "Stream options can only be defined when `stream=True`.",
            "stream_options",
        ),
    ],
)
def test_bad_parameters(changes: dict[str, Any], message: str, param: str | None) -> None:
    expected = {"message": message, "type": "BadRequestError", "param": param, "code": 400}
    assert refused(sampled, CHAT | changes) == expected


@pytest.mark.parametrize("changes", [{"top_k": -1}, {"temperature": None, "n": None}, {"unknown": 1}, {"seed": -5}])
def test_what_vllm_takes_is_taken(changes: dict[str, Any]) -> None:
    assert sampled(CHAT | changes).max_tokens == 10


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (
            b"{}",
            "1 validation error:\n  {'type': 'missing', 'loc': 'body.messages', 'msg': 'Field required', 'input': {}}",
            "body.messages",
        ),
        (
            b'{"messages": [], "n": "x"}',
            "1 validation error:\n  {'type': 'int_parsing', 'loc': 'body.n', 'msg': 'Input should be a valid integer, "
            "unable to parse string as an integer', 'input': 'x'}",
            "body.n",
        ),
        (
            b"{",
            "1 validation error:\n  {'type': 'json_invalid', 'loc': 'body.1', 'msg': 'JSON decode error', 'input': {}, "
            "'ctx': {'error': 'unexpected end of data'}}",
            "body.1",
        ),
    ],
)
def test_malformed_bodies(body: bytes, message: str, param: str) -> None:
    expected = {"message": message, "type": "Bad Request", "param": param, "code": 400}
    assert refused(protocol.parse, ChatRequest, body, ["tiny"]) == expected


def test_a_long_input_is_not_echoed_whole() -> None:
    body = json.dumps({"messages": "x" * 10_000}).encode()
    assert len(refused(protocol.parse, ChatRequest, body, ["tiny"])["message"]) < 500


def test_an_unknown_model_names_the_known_ones() -> None:
    assert refused(protocol.parse, ChatRequest, json.dumps(CHAT | {"model": "nope"}).encode(), ["tiny"]) == {
        "message": "The model `nope` does not exist. Valid aliases: tiny.",
        "type": "NotFoundError",
        "param": "model",
        "code": 404,
    }


@pytest.mark.parametrize(
    ("prompt", "asked", "message"),
    [
        (
            600,
            None,
            "This model's maximum context length is 512 tokens. However, your request has 600 input tokens. Please "
            "reduce the length of the input prompt. (parameter=input_tokens, value=600)",
        ),
        (
            257,
            256,
            "This model's maximum context length is 512 tokens. However, you requested 256 output tokens and your "
            "prompt contains at least 257 input tokens, for a total of at least 513 tokens. Please reduce the length "
            "of the input prompt or the number of requested output tokens. (parameter=input_tokens, value=257)",
        ),
    ],
)
def test_a_prompt_that_does_not_fit(prompt: int, asked: int | None, message: str) -> None:
    assert refused(protocol.output_budget, prompt, asked, 512)["message"] == message


def test_a_prompt_that_cannot_fit_is_refused_by_its_characters() -> None:
    assert refused(protocol.check_characters, 13525, None, 512, 15) == {
        "message": "This model's maximum context length is 512 tokens. However, your prompt contains 13525 characters "
        "(more than 7680 characters, which is the upper bound for 512 input tokens). Please reduce the length of the "
        "input prompt. (parameter=input_text, value=13525)",
        "type": "BadRequestError",
        "param": "input_text",
        "code": 400,
    }


@pytest.mark.parametrize(("prompt", "asked", "budget"), [(10, None, 502), (10, 5, 5), (511, None, 1), (256, 256, 256)])
def test_the_output_budget(prompt: int, asked: int | None, budget: int) -> None:
    assert protocol.output_budget(prompt, asked, 512) == budget


def test_more_output_than_the_context_is_refused_whatever_the_prompt() -> None:
    assert refused(protocol.check_max_tokens, 5000, 512)["message"] == (
        "max_tokens=5000 cannot be greater than max_model_len=512. Please request fewer output tokens. "
        "(parameter=max_tokens, value=5000)"
    )
    assert refused(protocol.check_max_tokens, 0, 512)["param"] == "max_tokens"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([0, 2], [[0, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_prompts_come_as_texts_or_ids(prompt: Any, expected: Any) -> None:
    assert list(CompletionRequest(prompt=prompt).prompts()) == expected


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], None])
def test_an_empty_prompt_is_refused(prompt: Any) -> None:
    assert refused(CompletionRequest(prompt=prompt).prompts)["param"] == "prompt"


def test_an_image_is_more_than_a_text_model_takes() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:"}}
    message = protocol.ChatMessage(role="user", content=[{"type": "text", "text": "See"}, part])
    assert refused(message.as_text)["message"] == "At most 0 image(s) may be provided in one prompt."


@given(
    st.binary(max_size=40)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_any_body_is_parsed_or_refused(body: bytes) -> None:
    try:
        protocol.parse(CompletionRequest, body, ["tiny"])
    except RequestError as refusal:
        code = json.loads(refusal.body)["error"]["code"]
        if code not in (400, 404):
            pytest.fail(f"refused with {code}")
