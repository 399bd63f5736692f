"""`/generate` and `/generate_image`: what goes in, what comes out, what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.contract.stack import before_echo, before_faults
from tests.support.counting_model import count_text
from tests.support.fault_backend import FaultBackend
from tests.support.faults import fault
from tests.support.gateway import running_gateway

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n and the rest").decode()
ERROR = {"error", "error_type", "details", "is_retryable", "correlation_id", "timestamp"}


async def test_text_comes_with_the_model_that_made_it() -> None:
    async with before_faults() as (stack, backend):
        answer = await stack.gateway.post("/generate", {"prompt": "count", "model": "tiny", "max_tokens": 8})
        unnamed = await stack.gateway.post("/generate", {"prompt": "count", "max_tokens": 8})
        asked = json.loads(backend.log.to("/v1/chat/completions")[0].body)
    assert (answer.status, unnamed.status) == (200, 200)
    document = answer.json
    assert document["generated_text"] == count_text(1, 8)
    assert (document["model_used"], document["was_fallback"]) == ("tiny", False)
    assert not document.keys() & {"warning", "degradation_level"}
    assert asked["messages"] == [{"role": "user", "content": "count"}]
    assert answer.headers["x-seawall-backend"] == "b"


async def test_an_image_comes_as_base64() -> None:
    async with before_echo() as (stack, backend):
        backend.answers["/v1/images/generations"] = {"created": 1, "data": [{"b64_json": PNG}]}
        wanted = {"prompt": "a red circle", "width": 64, "height": 32, "steps": 7, "seed": 3}
        answer = await stack.gateway.post("/generate_image", wanted)
        asked = json.loads(backend.seen[0].body)
    document = answer.json
    assert base64.b64decode(document["image"]).startswith(b"\x89PNG")
    assert (document["model_used"], document["was_fallback"]) == ("picture", False)
    assert asked["prompt"] == "a red circle"
    assert (asked["size"], asked["num_inference_steps"], asked["seed"]) == ("64x32", 7, 3)
    assert asked["response_format"] == "b64_json"


async def test_a_fallback_and_a_smaller_request_are_told() -> None:
    async with FaultBackend() as bad, FaultBackend() as good:
        text = (
            "server: {listen: '127.0.0.1:0'}\n"
            "backends:\n"
            f"  bad: {{url: '{bad.url}', kind: vllm}}\n"
            f"  good: {{url: '{good.url}', kind: vllm, model: tiny}}\n"
            "routes: [{model: big, backends: [bad], fallback: [good]}]\n"
        )
        async with running_gateway(text) as gateway:
            bad.inject("model_not_found")
            good.inject(fault("oom", times=1))
            answer = await gateway.post("/generate", {"prompt": "count", "max_tokens": 8})
    document = answer.json
    assert answer.status == 200, document
    assert (document["generated_text"], document["model_used"], document["was_fallback"]) == (
        count_text(1, 4),
        "tiny",
        True,
    )
    assert "max_tokens" in document["warning"]
    assert answer.headers["x-seawall-fallback"] == "true"


TOO_LONG = "must be at most 200000 characters long; it is 200001"


@pytest.mark.parametrize(
    ("path", "body", "field", "said"),
    [
        ("/generate", {}, "prompt", "This field is required"),
        ("/generate", {"prompt": None}, "prompt", "This field is required"),
        ("/generate", {"prompt": ""}, "prompt", "must not be empty"),
        ("/generate", {"prompt": " \n\t"}, "prompt", "must not be empty: it holds only white space"),
        ("/generate", {"prompt": "\0\0"}, "prompt", "must not be empty: it held only control characters"),
        ("/generate", {"prompt": 5}, "prompt", "must be a string"),
        ("/generate", {"prompt": "x" * 200_001}, "prompt", TOO_LONG),
        ("/generate", {"prompt": "x", "max_tokens": 0}, "max_tokens", "must be at least 1"),
        ("/generate", {"prompt": "x", "max_tokens": 10_000}, "max_tokens", "must be at most 8192"),
        ("/generate", {"prompt": "x", "temperature": -0.1}, "temperature", "must be at least 0"),
        ("/generate_image", {}, "prompt", "This field is required"),
        ("/generate_image", {"prompt": ""}, "prompt", "must not be empty"),
        ("/generate_image", {"prompt": "   "}, "prompt", "must not be empty: it holds only white space"),
        ("/generate_image", {"prompt": "x" * 200_001}, "prompt", TOO_LONG),
        ("/generate_image", {"prompt": "x", "width": 0}, "width", "must be at least 1"),
        ("/generate_image", {"prompt": "x", "height": -64}, "height", "must be at least 1"),
        ("/generate_image", {"prompt": "x", "steps": 0}, "steps", "must be at least 1"),
        ("/generate_image", {"prompt": "x", "steps": 101}, "steps", "must be at most 100"),
        ("/generate_image", {"prompt": "x", "num_inference_steps": 101}, "num_inference_steps", "must be at most 100"),
        ("/generate_image", {"prompt": "x", "size": "big"}, "size", "must be a width and a height, such as 512x512"),
        ("/generate_image", {"prompt": "x", "size": "0x64"}, "size", "must be at least 1x1"),
        ("/v1/images/generations", {"prompt": "x", "size": "64x0"}, "size", "must be at least 1x1"),
        (
            "/generate_image",
            {"prompt": "x", "width": 2048, "height": 2048},
            "width",
            "must be at most 1048576 pixels (width x height); it is 2048x2048",
        ),
    ],
)
async def test_what_is_wrong_with_a_request_is_said_by_field(
    path: str, body: dict[str, Any], field: str, said: str
) -> None:
    async with before_faults() as (stack, backend):
        answer = await stack.gateway.post(path, body)
        assert not [seen for seen in backend.log if seen.method == "POST"]
    native = path.startswith("/generate")
    document = answer.json if native else answer.error
    assert answer.status == 422
    assert (document["error_type"], document["details"]["field_errors"]) == ("validation_error", {field: [said]})
    if native:
        assert document.keys() == ERROR


async def test_control_characters_are_taken_out_of_a_prompt() -> None:
    async with before_faults() as (stack, backend):
        answer = await stack.gateway.post("/generate", {"prompt": "a\0b\x07c\nd\te\x7f\x1b[1m", "max_tokens": 4})
        asked = json.loads(backend.log.to("/v1/chat/completions")[0].body)
    assert answer.status == 200
    assert asked["messages"][0]["content"] == "abc\nd\te[1m"


async def test_an_answer_without_an_image_is_no_success() -> None:
    async with before_echo() as (stack, _):
        answer = await stack.gateway.post("/generate_image", {"prompt": "x"})
    assert (answer.status, answer.json["error_type"], answer.json.keys()) == (502, "generation_failed", ERROR)
