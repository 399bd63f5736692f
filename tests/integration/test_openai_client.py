"""The openai package as users run it, against a gateway before real and byte-true backends."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.support.counting_model import count_text
from tests.support.fault_backend import FaultBackend
from tests.support.faults import Fault, FaultKind, fault
from tests.support.gateway import RunningGateway, running_gateway

CONFIG = """
server: {{listen: "127.0.0.1:0", max_body: 64KiB}}
auth: {{keys: [{{name: good, key: good-key, concurrency: 1}}, {{name: other, key: other-key, models: [none]}}]}}
backends: {{b: {{url: "{url}", kind: vllm}}}}
routes: [{{model: tiny, backends: [b]}}]
policies:
  default:
    timeout: {{connect: 300ms, first_token: 100ms, idle: 200ms, total: 400ms}}
    retry: {{attempts: 1}}
    circuit_breaker: {{consecutive_failures: 100, min_requests: 1000}}
    limits: {{max_tokens: 1000}}
"""

FILTERED = b'{"error":{"message":"The response was filtered.","type":null,"param":"prompt","code":"content_filter"}}'
BAD_PARAMETER = (
    b'{"error":{"message":"temperature must be non-negative, got -3.0. (parameter=temperature, value=-3.0)",'
    b'"type":"BadRequestError","param":"temperature","code":400}}'
)
NO_WEIGHTS = Fault(FaultKind.RESPOND, status=503, body=b'{"error":"model failed to load"}')


def client(gateway: RunningGateway, key: str = "good-key") -> AsyncOpenAI:
    """A client that does not retry by itself, so that one call is one request."""
    return AsyncOpenAI(base_url=gateway.url + "/v1", api_key=key, max_retries=0)


async def ask(gateway: RunningGateway, key: str = "good-key", **fields: Any) -> Any:
    """One chat completion."""
    wanted: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "count"}], "max_tokens": 8}
    async with client(gateway, key) as sdk:
        return await sdk.chat.completions.create(**(wanted | fields))


FROM_BACKEND = [
    ("context_length", openai.BadRequestError, "context_length_exceeded", False),
    (Fault(FaultKind.RESPOND, status=400, body=FILTERED), openai.BadRequestError, "content_filtered", False),
    (Fault(FaultKind.RESPOND, status=400, body=BAD_PARAMETER), openai.BadRequestError, "invalid_input", False),
    (NO_WEIGHTS, openai.InternalServerError, "model_loading_failed", False),
    ("internal_error", openai.InternalServerError, "generation_failed", True),
    ("kill", openai.InternalServerError, "backend_unreachable", True),
    ("overloaded", openai.InternalServerError, "model_overloaded", True),
    ("rate_limited", openai.InternalServerError, "model_overloaded", True),
    ("loading", openai.InternalServerError, "model_loading", True),
    ("oom", openai.InternalServerError, "out_of_memory", False),
    ("model_not_found", openai.NotFoundError, "model_not_found", False),
    ("hang", openai.InternalServerError, "inference_timeout", True),
    ("html_200", openai.InternalServerError, "generation_failed", True),
]


@pytest.mark.parametrize(("what", "exception", "error_type", "retry"), FROM_BACKEND)
async def test_a_backends_failure_reaches_the_client_as_the_right_exception(
    what: str | Fault, exception: type[openai.APIStatusError], error_type: str, retry: bool
) -> None:
    async with FaultBackend() as backend, running_gateway(CONFIG.format(url=backend.url)) as gateway:
        backend.inject(what if isinstance(what, Fault) else fault(what))
        with pytest.raises(exception) as caught:
            await ask(gateway)
        check(caught.value, error_type, retry)


def check(error: openai.APIStatusError, error_type: str, retry: bool) -> None:
    """The contract of every error answer."""
    assert isinstance(error.body, dict)
    assert error.body["error_type"] == error_type
    assert error.code
    assert error.body["correlation_id"] == error.response.headers["x-correlation-id"] == error.request_id
    assert error.body["is_retryable"] is retry
    assert error.response.headers["x-should-retry"] == str(retry).lower()
    assert ("retry-after" in error.response.headers) is retry
    assert "127.0.0.1" not in error.response.text


FROM_GATEWAY: list[tuple[dict[str, Any], type[openai.APIStatusError], str]] = [
    ({"temperature": -1}, openai.UnprocessableEntityError, "validation_error"),
    ({"max_tokens": 5000}, openai.UnprocessableEntityError, "validation_error"),
    ({"model": "tiney"}, openai.NotFoundError, "model_not_found"),
    ({"key": "wrong"}, openai.AuthenticationError, "authentication_failed"),
    ({"key": "other-key"}, openai.PermissionDeniedError, "permission_denied"),
    ({"messages": [{"role": "user", "content": "x" * 70_000}]}, openai.APIStatusError, "payload_too_large"),
]


@pytest.mark.parametrize(("fields", "exception", "error_type"), FROM_GATEWAY)
async def test_the_gateways_own_refusals_reach_the_client_as_the_right_exception(
    fields: dict[str, Any], exception: type[openai.APIStatusError], error_type: str
) -> None:
    async with FaultBackend() as backend, running_gateway(CONFIG.format(url=backend.url)) as gateway:
        with pytest.raises(exception) as caught:
            await ask(gateway, **fields)
        check(caught.value, error_type, retry=False)
        assert backend.log.total == 0 or not list(backend.log.to("/v1/chat/completions"))


async def test_a_keys_limit_is_a_rate_limit_error() -> None:
    async with (
        FaultBackend(per_token=0.02) as backend,
        running_gateway(CONFIG.format(url=backend.url)) as gateway,
        client(gateway) as sdk,
    ):
        stream = await sdk.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "count"}], max_tokens=8, stream=True
        )
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(gateway)
        check(caught.value, "rate_limited", retry=True)
        await stream.close()


async def test_the_clients_deadline_is_an_error_that_it_should_not_retry() -> None:
    async with FaultBackend() as backend, running_gateway(CONFIG.format(url=backend.url)) as gateway:
        backend.inject("hang")
        with pytest.raises(openai.InternalServerError) as caught:
            await ask(gateway, extra_headers={"X-Request-Timeout": "0.2"})
        check(caught.value, "deadline_exceeded", retry=False)


async def collect(stream: Any, pieces: list[str]) -> None:
    """Adds the text of each chunk to `pieces`, which keeps what came before an error."""
    async for chunk in stream:
        pieces.append(chunk.choices[0].delta.content or "")  # noqa: PERF401 - extend would lose it


async def test_a_broken_stream_raises_and_never_looks_whole() -> None:
    async with FaultBackend() as backend, running_gateway(CONFIG.format(url=backend.url)) as gateway:
        backend.inject(fault("silent_cut", after=3))
        pieces: list[str] = []
        with pytest.raises(openai.APIError) as caught:
            await collect(await ask(gateway, stream=True), pieces)
        assert "".join(pieces) == count_text(1, 3)
        assert caught.value.code == "generation_failed"


async def test_chat_stream_completions_embeddings_and_models_work_unchanged() -> None:
    async with FaultBackend() as backend, running_gateway(CONFIG.format(url=backend.url)) as gateway:
        assert (await ask(gateway)).choices[0].message.content == count_text(1, 8)
        chunks = [chunk async for chunk in await ask(gateway, stream=True)]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == count_text(1, 8)
        async with client(gateway) as sdk:
            completion = await sdk.completions.create(model="tiny", prompt="count", max_tokens=4)
            assert completion.choices[0].text
            embedding = await sdk.embeddings.create(model="tiny", input="text", encoding_format="float")
            assert embedding.data[0].embedding
            assert [model.id async for model in sdk.models.list()] == ["tiny"]
            assert (await sdk.models.retrieve("tiny")).id == "tiny"
