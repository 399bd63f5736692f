"""Hedged requests over real sockets."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from tests.integration.test_resilience import stack
from tests.support.counting_model import count_text
from tests.support.fault_backend import FaultBackend
from tests.support.faults import fault
from tests.support.gateway import RunningGateway

POLICY = """
policies:
  default:
    balance: round_robin
    timeout: {first_token: 3s, total: 10s}
    retry: {attempts: 3, budget: {ratio: 1, min_per_second: 100}}
    hedge: {after: 50ms, budget: 1}
"""


async def attempts(gateway: RunningGateway, correlation_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await gateway.get(f"/requests/{correlation_id}")).json["attempts"]
    return found


def asked(backend: FaultBackend) -> int:
    return len(list(backend.log.to("/v1/chat/completions")))


async def test_a_slow_endpoint_is_hedged_and_aborted_when_the_other_one_answers() -> None:
    async with stack(policy=POLICY) as (gateway, (slow, _)):
        slow.inject(fault("slow_first_token", seconds=2.0))
        for stream in (False, True):
            started = monotonic()
            answers = [await gateway.chat(stream=stream) for _ in range(2)]
            assert monotonic() - started < 1.5
            texts = [answer.streamed if stream else answer.text for answer in answers]
            assert texts == [count_text(1, 8)] * 2
            hedged = next(answer for answer in answers if answer.headers["x-seawall-attempts"] == "2")
            trail = await attempts(gateway, hedged.headers["x-correlation-id"])
            assert [(a["backend"], a["why"], a["outcome"]) for a in trail] == [
                ("b0", "primary", "beaten"),
                ("b1", "hedge", "ok"),
            ]
            assert 40 <= trail[1]["at_ms"] - trail[0]["at_ms"] < 500
        for _ in range(100):
            if all(seen.state == "aborted" for seen in slow.log.to("/v1/chat/completions")):
                break
            await asyncio.sleep(0.01)
        assert {seen.state for seen in slow.log.to("/v1/chat/completions")} == {"aborted"}
        numbers = gateway.gateway.metrics.route("tiny")
        assert numbers.hedges == 2
        assert numbers.wasted_seconds["beaten"] >= 0.09
        endpoint = gateway.gateway.runtime.endpoints["b0"]
        assert (endpoint.in_flight, endpoint.breaker.sound) == (0, True)
        metrics = (await gateway.get("/metrics")).body
        assert b'seawall_hedges_total{route="tiny"} 2' in metrics
        assert b'seawall_attempts_total{route="tiny",backend="b0",outcome="beaten"} 2' in metrics


async def test_a_hedge_that_fails_leaves_the_first_attempt_to_answer() -> None:
    async with stack(policy=POLICY) as (gateway, (slow, bad)):
        slow.inject(fault("slow_first_token", seconds=0.3))
        bad.inject("internal_error")
        answers = [await gateway.chat() for _ in range(2)]
        assert [answer.text for answer in answers] == [count_text(1, 8)] * 2


async def test_without_a_budget_and_for_large_bodies_and_images_nothing_is_hedged() -> None:
    settings = "after: 50ms, budget: 1}"
    for other in ("after: 50ms, budget: 0}", "after: 50ms, budget: 1, max_body: 50B}"):
        async with stack(policy=POLICY.replace(settings, other)) as (gateway, (slow, _)):
            slow.inject(fault("slow_first_token", seconds=0.2))
            answers = [await gateway.chat() for _ in range(2)]
            assert {answer.headers["x-seawall-attempts"] for answer in answers} == {"1"}
    async with stack(policy=POLICY) as (gateway, backends):
        for backend in backends:
            backend.inject(fault("hang", seconds=0.2))
        await gateway.post("/v1/images/generations", {"model": "tiny", "prompt": "a wave"})
        assert gateway.gateway.metrics.route("tiny").hedges == 0


async def test_a_tier_that_is_slow_as_a_whole_is_not_doubled() -> None:
    policy = POLICY.replace("hedge: {after: 50ms, budget: 1}", "hedge: {after: 20ms, budget: 0.1}")
    async with stack(policy=policy) as (gateway, backends):
        for backend in backends:
            backend.first_token = 0.1
        answers = await asyncio.gather(*[gateway.chat() for _ in range(40)])
        assert all(answer.status == 200 for answer in answers)
        assert sum(map(asked, backends)) <= 40 * 1.1 + 1


async def test_p95_is_learned_from_the_routes_own_answers() -> None:
    async with stack(policy=POLICY.replace("after: 50ms", "after: p95")) as (gateway, (slow, _)):
        for _ in range(30):
            await gateway.chat(stream=True)
        slow.inject(fault("slow_first_token", seconds=3.0))
        hedge = gateway.gateway.runtime.routes.routes[0].hedge
        assert hedge is not None
        hedge._live[True]._fresh_until = 0.0
        started = monotonic()
        answers = [await gateway.chat(stream=True) for _ in range(2)]
        assert monotonic() - started < 2.0
        assert [answer.streamed for answer in answers] == [count_text(1, 8)] * 2
        assert gateway.gateway.metrics.route("tiny").hedges >= 1


async def test_a_hedges_stream_that_breaks_tells_of_the_break_and_not_of_the_beaten_one() -> None:
    async with stack(policy=POLICY + "    stream: {resume: false}\n") as (gateway, (slow, breaks)):
        slow.inject(fault("slow_first_token", seconds=2.0))
        breaks.inject(fault("rst_mid_stream", after=3))
        answer = await gateway.chat(stream=True)
        assert answer.headers["x-seawall-attempts"] == "2"
        assert answer.error["error_type"] == "generation_failed"
        assert [each["backend"] for each in answer.error["details"]["attempts"]] == ["b1"]
