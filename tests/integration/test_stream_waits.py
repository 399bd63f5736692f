"""Streams that break while nobody can go on with them: they wait for an endpoint that comes back, as requests do."""

from __future__ import annotations

import asyncio
from time import monotonic
from unittest.mock import Mock

import pytest

from policies.breaker import State
from policies.plan import AttemptPlan
from tests.integration.test_resilience import POLICY, stack
from tests.integration.test_stream_failover import text_of, until
from tests.support.counting_model import count_text
from tests.support.fault_backend import FaultBackend
from tests.support.faults import fault
from tests.support.gateway import Answer, RunningGateway

WAITS = POLICY.replace("max_wait: 0s", "max_wait: 4s").replace("total: 5s", "total: 20s")


async def killed_under_a_stream(gateway: RunningGateway, backends: list[FaultBackend]) -> asyncio.Task[Answer]:
    """A stream whose backends were all killed after its first tokens."""
    for backend in backends:
        backend.per_token = 0.005
    asked = asyncio.create_task(gateway.chat(stream=True, max_tokens=40))
    await until(lambda: any(seen.tokens_sent >= 5 for backend in backends for seen in backend.log))
    for backend in backends:
        await backend.kill()
    return asked


async def test_a_stream_outlives_an_outage_of_every_backend() -> None:
    async with stack(policy=WAITS + "    stream: {keepalive: 100ms}\n") as (gateway, backends):
        asked = await killed_under_a_stream(gateway, backends)
        await asyncio.sleep(0)
        await until(lambda: not any(e.up(monotonic()) for e in gateway.gateway.runtime.endpoints.values()))
        for backend in backends:
            await backend.start()
        answer = await asked
        assert text_of(answer) == count_text(1, 40)
        assert answer.frames[-1] == "[DONE]"


async def test_it_does_not_spend_its_tries_on_backends_that_nobody_has_heard_of_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.failover._INTERVAL", 0.01)
    policy = WAITS.replace("consecutive_failures: 5, open_for: 200ms", "consecutive_failures: 1, open_for: 50ms")
    async with stack(policy=policy, health="interval: 5s, unhealthy_after: 100") as (gateway, backends):
        asked = await killed_under_a_stream(gateway, backends)
        endpoints = gateway.gateway.runtime.endpoints.values()
        await until(lambda: all(e.breaker.state(monotonic()) is State.HALF_OPEN for e in endpoints))
        looks = Mock(side_effect=AttemptPlan.may_resume_later)
        monkeypatch.setattr(AttemptPlan, "may_resume_later", lambda *told: looks(*told))
        await until(lambda: asked.done() or looks.call_count >= 3)
        for backend in backends:
            await backend.start()
        assert text_of(await asked) == count_text(1, 40)


async def test_without_a_wait_it_ends_in_the_typed_error_at_once() -> None:
    async with stack() as (gateway, (one, two)):
        one.inject("rst_mid_stream")
        two.inject("rst_mid_stream")
        began = monotonic()
        answer = await gateway.chat(stream=True, max_tokens=40)
        assert answer.error["error_type"] == "generation_failed"
        assert monotonic() - began < 2.0


async def test_an_endpoint_that_never_comes_back_is_waited_for_no_longer_than_may_be() -> None:
    policy = POLICY.replace("max_wait: 0s", "max_wait: 300ms")
    async with stack(policy=policy) as (gateway, backends):
        asked = await killed_under_a_stream(gateway, backends)
        answer = await asyncio.wait_for(asked, 4.0)
        assert answer.error["is_retryable"] is True
        assert count_text(1, 40).startswith(text_of(answer))


async def test_a_client_that_leaves_meanwhile_is_not_waited_for() -> None:
    async with stack(policy=WAITS) as (gateway, backends):
        asked = await killed_under_a_stream(gateway, backends)
        room = gateway.gateway.runtime.routes.routes[0].room
        await until(lambda: room._streams == 1)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await until(lambda: room._streams == 0, 1.0)


async def test_a_deadline_that_no_endpoint_has_lately_kept_is_told_at_once() -> None:
    async with stack(primaries=1) as (gateway, (backend,)):
        backend.first_token = 0.2
        await asyncio.gather(*(gateway.chat(max_tokens=1) for _ in range(12)))
        asked = len(list(backend.log.to("/v1/chat/completions")))
        late = await gateway.chat(headers={"X-Request-Timeout": "0.1"})
        assert late.status == 504
        assert late.error["error_type"] == "deadline_exceeded"
        assert late.headers["x-seawall-attempts"] == "0"
        assert len(list(backend.log.to("/v1/chat/completions"))) == asked
        assert (await gateway.chat(headers={"X-Request-Timeout": "2"}, max_tokens=1)).status == 200


async def test_the_clients_deadline_that_passes_during_a_resume_is_what_it_is_told() -> None:
    async with stack() as (gateway, (one, two)):
        for backend in (one, two):
            backend.inject(fault("rst_mid_stream", after=3), fault("hang", path="/v1/completions"))
        answer = await gateway.chat(stream=True, headers={"X-Request-Timeout": "0.2", "connection": "close"})
        assert text_of(answer) == count_text(1, 3)
        assert answer.error["error_type"] == "deadline_exceeded"
        assert [each["error_type"] for each in answer.error["details"]["attempts"]] == [
            "generation_failed",
            "inference_timeout",
        ]


async def test_the_clients_deadline_that_passes_while_it_waits_for_one_that_comes_back_is_what_it_is_told() -> None:
    async with stack(policy=WAITS, primaries=1) as (gateway, (one,)):
        assert (await gateway.chat()).status == 200
        await one.kill()
        answer = await gateway.chat(headers={"X-Request-Timeout": "0.3"})
        assert (answer.status, answer.error["error_type"]) == (504, "deadline_exceeded")
        assert answer.headers["x-should-retry"] == "false"
        assert answer.error["details"]["attempts"]
