"""Faults of backends, and what the client sees of them: nothing, or one clear error."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic

import orjson
import pytest

from policies.breaker import State
from tests.support.counting_model import count_text
from tests.support.fault_backend import FaultBackend
from tests.support.faults import fault
from tests.support.gateway import RunningGateway, running_gateway

POLICY = """
policies:
  default:
    balance: round_robin
    timeout: {connect: 500ms, first_token: 300ms, idle: 300ms, total: 5s}
    retry: {attempts: 3, backoff: {initial: 1ms, max: 5ms, jitter: none}, budget: {ratio: 1, min_per_second: 100}}
    circuit_breaker: {consecutive_failures: 5, open_for: 200ms, half_open_probes: 1}
    admission: {max_wait: 0s}
"""


HEALTH = "interval: 100ms, healthy_after: 1"


@asynccontextmanager
async def stack(
    *, primaries: int = 2, fallback: bool = False, policy: str = POLICY, extra: str = "", health: str = ""
) -> AsyncIterator[tuple[RunningGateway, list[FaultBackend]]]:
    """A gateway before `primaries` counting backends, and with `fallback` one more in a second tier."""
    async with AsyncExitStack() as exits:
        backends = [await exits.enter_async_context(FaultBackend()) for _ in range(primaries + fallback)]
        names = [f"b{number}" for number in range(len(backends))]
        lines = "\n".join(
            f"  {name}: {{url: '{backend.url}', kind: vllm, health: {{{health or HEALTH}}}}}"
            for name, backend in zip(names, backends, strict=True)
        )
        tiers = f"fallback: [{names[-1]}]" if fallback else ""
        route = f"  - {{model: tiny, backends: [{', '.join(names[:primaries])}], {tiers}}}"
        text = f"server: {{listen: '127.0.0.1:0'}}\nbackends:\n{lines}\nroutes:\n{route}\n{policy}{extra}"
        yield await exits.enter_async_context(running_gateway(text)), backends


HIDDEN = [
    "kill",
    "rst_before_head",
    "rst_after_head",
    "html_200",
    "half_json",
    "half_json_wrong_length",
    "empty_200",
    "error_json_200",
    "not_http",
    "malformed_chunked",
    "internal_error",
    "engine_dead",
    "oom",
    "loading",
    "overloaded",
    "rate_limited",
    "unauthorized",
    "large_header",
]


@pytest.mark.parametrize("name", HIDDEN)
async def test_a_whole_answer_survives_a_faulty_endpoint(name: str) -> None:
    async with stack() as (gateway, (bad, _)):
        bad.inject(name)
        for _ in range(4):
            answer = await gateway.chat()
            assert answer.status == 200
            assert answer.text == count_text(1, 8)


@pytest.mark.parametrize("name", [*HIDDEN, "silent_cut"])
async def test_a_stream_survives_a_fault_before_its_first_content(name: str) -> None:
    async with stack() as (gateway, (bad, _)):
        bad.inject(fault(name, after=0) if name == "silent_cut" else name)
        for _ in range(2):
            answer = await gateway.chat(stream=True)
            assert answer.status == 200
            assert answer.streamed == count_text(1, 8)
            assert answer.frames[-1] == "[DONE]"


@pytest.mark.parametrize("name", ["rst_mid_stream", "stall", "silent_cut", "engine_death", "giant_frame", "bad_chunk"])
async def test_a_begun_stream_that_breaks_ends_with_a_typed_error_and_never_with_done(name: str) -> None:
    async with stack(primaries=1, extra="") as (gateway, (bad,)):
        bad.inject(fault(name, after=3))
        answer = await gateway.chat(stream=True)
        assert answer.status == 200
        assert answer.error["error_type"] in ("generation_failed", "inference_timeout")
        assert answer.error["correlation_id"] == answer.headers["x-correlation-id"]
        assert "[DONE]" not in answer.frames


async def test_a_stream_with_a_finish_reason_but_no_done_is_completed() -> None:
    async with stack(primaries=1) as (gateway, (backend,)):
        backend.inject("no_done")
        answer = await gateway.chat(stream=True)
        assert answer.streamed == count_text(1, 8)
        assert answer.frames[-1] == "[DONE]"


async def test_a_hung_endpoint_costs_one_first_token_timeout_and_no_answer() -> None:
    async with stack() as (gateway, (hung, _)):
        hung.inject("hang")
        answers = await asyncio.gather(*[gateway.chat() for _ in range(4)])
        assert [answer.text for answer in answers] == [count_text(1, 8)] * 4


async def test_the_fallback_tier_answers_when_all_primaries_fail_and_says_so() -> None:
    async with stack(fallback=True) as (gateway, (one, two, _)):
        one.inject("engine_dead")
        two.inject("kill")
        answer = await gateway.chat()
        assert answer.text == count_text(1, 8)
        assert answer.headers["x-seawall-fallback"] == "true"
        assert answer.headers["x-seawall-backend"] == "b2"
        assert int(answer.headers["x-seawall-attempts"]) >= 2


async def test_a_context_length_error_is_not_retried_and_not_blamed() -> None:
    async with stack() as (gateway, backends):
        for backend in backends:
            backend.inject("context_length")
        for _ in range(10):
            answer = await gateway.chat()
            assert answer.status == 400
            assert answer.error["error_type"] == "context_length_exceeded"
        assert sum(len(list(backend.log.to("/v1/chat/completions"))) for backend in backends) == 10
        status = (await gateway.get("/status")).json
        assert {endpoint["breaker"] for endpoint in status["endpoints"].values()} == {"closed"}


async def test_a_total_failure_lists_its_attempts_and_leaks_no_host() -> None:
    async with stack() as (gateway, backends):
        for backend in backends:
            backend.inject("internal_error")
        answer = await gateway.chat()
        assert answer.status == 502
        assert answer.headers["x-should-retry"] == "true"
        assert {attempt["backend"] for attempt in answer.error["details"]["attempts"]} == {"b0", "b1"}
        assert b"127.0.0.1" not in answer.body


async def test_the_breaker_opens_and_closes_again_when_the_endpoint_is_back() -> None:
    async with stack(primaries=1) as (gateway, (backend,)):
        endpoint = gateway.gateway.runtime.endpoints["b0"]
        backend.inject("internal_error")
        statuses = [(await gateway.chat()).status for _ in range(5)]
        assert statuses[0] == 502
        assert endpoint.breaker.state(monotonic()).value == "open"
        refused = await gateway.chat()
        assert refused.status == 503
        assert refused.error["error_type"] == "model_overloaded"
        assert "retry-after" in refused.headers
        backend.heal()
        for _ in range(100):
            answer = await gateway.chat()
            if answer.status == 200:
                break
            await asyncio.sleep(float(answer.headers["retry-after-ms"]) / 1000)
        assert answer.status == 200
        assert endpoint.breaker.state(monotonic()).value == "closed"


async def test_the_clients_deadline_ends_a_request_and_is_passed_on_reduced() -> None:
    async with stack(primaries=1) as (gateway, (backend,)):
        backend.inject("hang")
        answer = await gateway.chat(headers={"X-Request-Timeout": "0.2"})
        assert answer.status == 504
        assert answer.error["error_type"] == "deadline_exceeded"
        assert answer.headers["x-should-retry"] == "false"
        sent = float(next(iter(backend.log.to("/v1/chat/completions"))).headers["x-request-timeout"])
        assert 0 < sent <= 0.2


async def test_the_correlation_id_reaches_the_backend_and_comes_back() -> None:
    async with stack(primaries=1) as (gateway, (backend,)):
        answer = await gateway.chat(headers={"X-Correlation-ID": "corr-1"})
        assert answer.headers["x-correlation-id"] == answer.headers["x-request-id"] == "corr-1"
        seen = next(iter(backend.log.to("/v1/chat/completions"))).headers
        assert seen["x-correlation-id"] == seen["x-request-id"] == "corr-1"
        assert seen["traceparent"].startswith("00-")


async def test_the_clients_authorization_is_not_passed_on() -> None:
    async with stack(primaries=1) as (gateway, (backend,)):
        await gateway.chat(headers={"Authorization": "Bearer sk-client"})
        assert "authorization" not in next(iter(backend.log.to("/v1/chat/completions"))).headers


async def test_a_request_that_one_endpoint_fails_waits_for_another_that_is_ejected_for_a_moment() -> None:
    policy = POLICY.replace("open_for: 200ms", "open_for: 1s").replace("max_wait: 0s", "max_wait: 4s")
    async with stack(policy=policy) as (gateway, (fails, ejected)):
        ejected.inject("internal_error")
        breaker = gateway.gateway.runtime.endpoints["b1"].breaker
        while breaker.allows(monotonic()):
            assert (await gateway.chat()).status == 200
        ejected.heal()
        fails.inject("internal_error")
        answer = await gateway.chat(headers={"x-correlation-id": "patient"})
        assert answer.status == 200
        attempts = (await gateway.get("/requests/patient")).json["attempts"]
        assert [a["backend"] for a in attempts] == ["b0", "b0", "b0", "b1"]


async def test_when_all_are_ejected_one_that_is_back_is_found_within_a_second() -> None:
    policy = POLICY.replace("open_for: 200ms", "open_for: 30s, max_ejected: 0.5")
    async with stack(policy=policy) as (gateway, backends):
        for backend in backends:
            backend.inject("internal_error")
        while any(e.breaker.allows(monotonic()) for e in gateway.gateway.runtime.endpoints.values()):
            assert (await gateway.chat()).status != 200
        asked = sum(len(list(backend.log.to("/v1/chat/completions"))) for backend in backends)
        assert {(await gateway.chat()).status for _ in range(20)} <= {502, 503}
        assert sum(len(list(backend.log.to("/v1/chat/completions"))) for backend in backends) <= asked + len(backends)
        backends[1].heal()
        for _ in range(250):
            if (answer := await gateway.chat()).status == 200:
                break
            await asyncio.sleep(0.02)
        assert answer.headers["x-seawall-backend"] == "b1"
        name = answer.headers["x-correlation-id"]
        assert (await gateway.get(f"/requests/{name}")).json["attempts"][-1]["why"] == "last_resort"
        assert (await gateway.chat()).status == 200


async def test_a_stream_that_goes_on_well_closes_the_circuit_before_it_ends() -> None:
    async with stack(primaries=1) as (gateway, (backend,)):
        breaker = gateway.gateway.runtime.endpoints["b0"].breaker
        breaker.trip(monotonic())
        breaker.end_open_time(monotonic())
        backend.per_token = 0.1
        stream = asyncio.create_task(gateway.chat(stream=True, max_tokens=100))
        while breaker.state(monotonic()) is not State.CLOSED:
            assert not stream.done()
            await asyncio.sleep(0.02)
        backend.per_token = 0.0
        assert (await gateway.chat()).status == 200
        assert not stream.done()
        stream.cancel()


async def test_a_stream_that_stalls_on_trial_does_not_close_the_circuit() -> None:
    policy = POLICY.replace("idle: 300ms", "idle: 1500ms").replace("open_for: 200ms", "open_for: 30s")
    async with stack(primaries=1, policy=policy) as (gateway, (backend,)):
        breaker = gateway.gateway.runtime.endpoints["b0"].breaker
        breaker.trip(monotonic())
        breaker.end_open_time(monotonic())
        backend.inject(fault("stall", after=3))
        answer = await gateway.chat(stream=True)
        assert answer.error["error_type"] in ("generation_failed", "inference_timeout")
        assert breaker.state(monotonic()) is State.OPEN


async def test_an_endpoint_whose_circuit_has_closed_comes_back_gradually() -> None:
    async with stack() as (gateway, (bad, _)):
        endpoint = gateway.gateway.runtime.endpoints["b0"]
        bad.inject(fault("internal_error", times=5))
        while endpoint.breaker.closed_at == float("-inf"):
            assert (await gateway.chat()).status == 200
        await gateway.chat()
        assert endpoint.weight < 0.5
        assert endpoint.usable(endpoint.breaker.closed_at + 10.0)
        assert endpoint.weight == 1.0


async def test_a_compressed_body_reaches_the_backend_plain() -> None:
    body = orjson.dumps({"model": "tiny", "messages": [{"role": "user", "content": "count"}], "max_tokens": 8})
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    async with stack(primaries=1) as (gateway, backends):
        url = gateway.url + "/v1/chat/completions"
        async with gateway.session.post(url, data=gzip.compress(body), headers=headers) as answer:
            assert answer.status == 200, await answer.text()
        (seen,) = backends[0].log.to("/v1/chat/completions")
    assert seen.body == body
    assert "content-encoding" not in seen.headers
