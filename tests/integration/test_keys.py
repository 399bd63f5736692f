"""Keys and their limits, the operators' surface and credentials, as clients and backends see them."""

from __future__ import annotations

import asyncio
import hashlib
import socket

import openai
import pytest

from tests.integration.test_operations import config
from tests.support.fault_backend import FaultBackend
from tests.support.gateway import running_gateway

KEYS = f"""
auth:
  keys:
    - {{name: plain, key: secret-a, requests_per_minute: 2}}
    - {{name: hashed, key: 'sha256:{hashlib.sha256(b"secret-b").hexdigest()}', tokens_per_minute: 1000}}
    - {{name: single, key: secret-c, concurrency: 1}}
    - {{name: other, key: secret-d, models: ["other*"]}}
"""


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_requests_per_minute_are_told_and_kept() -> None:
    async with FaultBackend() as backend, running_gateway(config(backend, more=KEYS)) as gateway:
        first = await gateway.chat(headers=bearer("secret-a"))
        assert first.status == 200
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert first.headers["ratelimit"].startswith('"requests";r=1;t=')
        assert first.headers["ratelimit-policy"] == '"requests";q=2;w=60'
        await gateway.chat(headers=bearer("secret-a"))
        refused = await gateway.chat(headers=bearer("secret-a"))
        assert (refused.status, refused.error["error_type"], refused.error["type"]) == (
            429,
            "rate_limited",
            "rate_limit_error",
        )
        assert refused.error["is_retryable"] is True
        assert 25 <= int(refused.headers["retry-after"]) <= 30
        assert refused.headers["x-should-retry"] == "true"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert len(list(backend.log.to("/v1/chat/completions"))) == 2


async def test_the_openai_client_reads_the_refusal_as_its_rate_limit_error() -> None:
    async with FaultBackend() as backend, running_gateway(config(backend, more=KEYS)) as gateway:
        client = openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key="secret-a", max_retries=0)
        async with client:
            for _ in range(2):
                await client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])
            with pytest.raises(openai.RateLimitError) as caught:
                await client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])
        assert caught.value.code == "rate_limited"
        assert caught.value.response.headers["x-ratelimit-reset-requests"].endswith("s")


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_are_settled_with_what_the_answer_used(stream: bool) -> None:
    async with FaultBackend() as backend, running_gateway(config(backend, more=KEYS)) as gateway:
        options = {"stream_options": {"include_usage": True}} if stream else {}
        first = await gateway.chat(headers=bearer("secret-b"), stream=stream, max_tokens=500, **options)
        assert first.status == 200
        reserved = 1000 - int(first.headers["x-ratelimit-remaining-tokens"])
        assert 500 < reserved < 520
        second = await gateway.chat(headers=bearer("secret-b"), max_tokens=1)
        used = 1000 - int(second.headers["x-ratelimit-remaining-tokens"])
        assert used < 120  # the model wrote 64
        too_much = await gateway.chat(headers=bearer("secret-b"), max_tokens=990)
        assert (too_much.status, too_much.error["code"]) == (429, "rate_limited")


async def test_a_failed_request_costs_no_tokens() -> None:
    async with FaultBackend() as backend, running_gateway(config(backend, more=KEYS)) as gateway:
        backend.inject("context_length")
        failed = await gateway.chat(headers=bearer("secret-b"), max_tokens=900)
        assert failed.status == 400
        assert int(failed.headers["x-ratelimit-remaining-tokens"]) < 100
        backend.heal()
        after = await gateway.chat(headers=bearer("secret-b"), max_tokens=1)
        assert int(after.headers["x-ratelimit-remaining-tokens"]) > 950


async def test_concurrency_frees_when_a_client_leaves() -> None:
    async with FaultBackend(per_token=0.05) as backend, running_gateway(config(backend, more=KEYS)) as gateway:
        running = asyncio.create_task(gateway.chat(headers=bearer("secret-c"), max_tokens=200))
        await backend.log.wait_for_state("running")
        refused = await gateway.chat(headers=bearer("secret-c"))
        assert (refused.status, refused.error["code"]) == (429, "rate_limited")
        running.cancel()
        async with asyncio.timeout(5):
            while (await gateway.chat(headers=bearer("secret-c"), max_tokens=1)).status != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_a_model_that_is_not_the_keys_is_denied_and_not_listed() -> None:
    async with FaultBackend() as backend, running_gateway(config(backend, more=KEYS)) as gateway:
        denied = await gateway.chat(headers=bearer("secret-d"))
        assert (denied.status, denied.error["error_type"]) == (403, "permission_denied")
        assert (await gateway.get("/v1/models", headers=bearer("secret-d"))).json["data"] == []


SPOOFED = [
    {"X-Forwarded-For": "127.0.0.1"},
    {"X-Forwarded-For": "::1"},
    {"Forwarded": "for=127.0.0.1"},
    {"X-Real-IP": "127.0.0.1"},
    {"Via": "1.1 proxy"},
    {"Host": "evil.example"},  # DNS rebinding: a name of the attacker's that resolves to 127.0.0.1
    {"Host": "127.0.0.1.evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", SPOOFED, ids=lambda headers: "=".join(*headers.items()))
async def test_off_loopback_the_operators_surface_is_closed_whatever_headers_claim(headers: dict[str, str]) -> None:
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        for path in ("/status", "/errors", "/requests/any"):
            refused = await gateway.get(path, headers=headers)
            assert (refused.status, refused.error["error_type"]) == (403, "permission_denied")
        assert (await gateway.get("/livez", headers=headers)).status == 200
        assert (await gateway.get("/status")).status == 200


async def test_another_machine_may_not_ask_the_operators_surface_without_the_key() -> None:
    """Another address of this machine stands for another machine: to the gateway it is not loopback."""
    own = _own_address()
    async with FaultBackend() as backend:
        settings = config(backend).replace("127.0.0.1:0", "0.0.0.0:0")
        async with running_gateway(settings, host="0.0.0.0") as gateway:
            gateway.url = gateway.url.replace("127.0.0.1", own)
            refused = await gateway.get("/status", headers={"X-Forwarded-For": "127.0.0.1", "Host": "127.0.0.1"})
            assert (refused.status, refused.error["error_type"]) == (403, "permission_denied")
            assert (await gateway.get("/livez")).status == 200


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # sends nothing: a datagram socket only looks up its route
            address: str = sock.getsockname()[0]
        except OSError:
            address = "127.0.0.1"
    if address.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    return address


CREDENTIALS = {
    "Authorization": "Bearer secret-a",
    "X-API-Key": "secret-a",
    "api-key": "azure",
    "X-Goog-Api-Key": "google",
    "X-Auth-Token": "token",
    "Cookie": "session=1",
    "Proxy-Authorization": "Basic c2VjcmV0",
}


async def test_no_credential_of_a_client_reaches_a_backend() -> None:
    async with FaultBackend() as backend, running_gateway(config(backend, more=KEYS)) as gateway:
        assert (await gateway.chat(headers=CREDENTIALS)).status == 200
        (seen,) = backend.log.to("/v1/chat/completions")
        assert not {name.lower() for name in CREDENTIALS} & set(seen.headers)
        assert "secret-a" not in str(seen.headers)


async def test_the_backends_own_key_and_headers_replace_what_the_client_sent() -> None:
    async with FaultBackend() as backend:
        settings = config(backend).replace("kind: vllm", "kind: vllm, api_key: own-key, headers: {X-Team: search}")
        async with running_gateway(settings) as gateway:
            await gateway.chat(headers={"Authorization": "Bearer theirs", "x-team": "mallory"})
            (seen,) = backend.log.to("/v1/chat/completions")
            assert seen.headers["authorization"] == "Bearer own-key"
            assert seen.headers["x-team"] == "search"  # of two, this would be the client's: it comes last


async def test_a_clients_authorization_is_passed_on_only_where_it_is_told_to() -> None:
    async with FaultBackend() as one, FaultBackend() as two:
        settings = config(one, two).replace("kind: vllm", "kind: vllm, forward_authorization: true", 1)
        async with running_gateway(settings) as gateway:
            for _ in range(8):
                await gateway.chat(headers={"Authorization": "Bearer theirs"})
            passed, kept = list(one.log.to("/v1/chat/completions")), list(two.log.to("/v1/chat/completions"))
            assert passed
            assert kept
            assert all(seen.headers["authorization"] == "Bearer theirs" for seen in passed)
            assert not any("authorization" in seen.headers for seen in kept)


REFUSALS = [("unauthorized", 401), ("forbidden", 403), ("rate_limited", 429)]


@pytest.mark.parametrize(("name", "status"), REFUSALS)
async def test_what_a_backend_says_of_a_clients_own_credentials_is_told_and_blames_nobody(
    name: str, status: int
) -> None:
    async with FaultBackend() as one, FaultBackend() as two:
        settings = config(one, two).replace("kind: vllm", "kind: vllm, forward_authorization: true")
        settings += "policies: {default: {circuit_breaker: {consecutive_failures: 1}, stale_if_error: {ttl: 1h}}}\n"
        async with running_gateway(settings) as gateway:
            theirs = {"Authorization": "Bearer theirs"}
            assert (await gateway.chat(headers=theirs, temperature=0)).status == 200
            for backend in (one, two):
                backend.inject(name)
            refused = await gateway.chat(headers=theirs, temperature=0)
            assert refused.status == status
            assert "x-seawall-stale" not in refused.headers  # the key may have been taken back
            for backend in (one, two):
                backend.heal()
            others = [await gateway.chat(headers={"Authorization": "Bearer others"}) for _ in range(16)]
            assert {answer.status for answer in others} == {200}
            assert {answer.headers["x-seawall-attempts"] for answer in others} == {"1"}
            assert len({answer.headers["x-seawall-backend"] for answer in others}) == 2


async def test_no_earlier_answer_is_shared_across_forwarded_credentials() -> None:
    async with FaultBackend() as one, FaultBackend() as two:
        settings = config(one, two).replace("kind: vllm", "kind: vllm, forward_authorization: true")
        settings += "policies: {default: {stale_if_error: {ttl: 1h}, retry: {attempts: 2}}}\n"
        async with running_gateway(settings) as gateway:
            for name in ("Authorization", "X-API-Key"):
                assert (await gateway.chat(headers={name: "Bearer theirs"}, temperature=0)).status == 200
            for backend in (one, two):
                backend.inject("internal_error")
            for headers in ({}, {"Authorization": "Bearer others"}, {"X-API-Key": "others"}):
                assert (await gateway.chat(headers=headers, temperature=0)).status == 502
            both = {"Authorization": "Bearer theirs", "X-API-Key": "Bearer theirs"}
            assert (await gateway.chat(headers=both, temperature=0)).status == 502
            for name in ("Authorization", "X-API-Key"):
                kept = await gateway.chat(headers={name: "Bearer theirs"}, temperature=0)
                assert kept.headers["x-seawall-stale"] == "true"


PROXIES = "trusted_proxies: ['127.0.0.0/8']"


async def test_a_trusted_proxys_word_for_the_client_is_passed_on() -> None:
    async with FaultBackend() as backend, running_gateway(config(backend, server=PROXIES)) as gateway:
        await gateway.chat(headers={"X-Forwarded-For": "10.9.9.9, 203.0.113.9, 127.0.0.1"})
        (seen,) = backend.log.to("/v1/chat/completions")
        assert seen.headers["x-forwarded-for"] == "203.0.113.9"


async def test_without_trusted_proxies_nobodys_word_for_the_client_is_passed_on() -> None:
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        await gateway.chat(headers={"X-Forwarded-For": "203.0.113.9"})
        (seen,) = backend.log.to("/v1/chat/completions")
        assert "x-forwarded-for" not in seen.headers
