"""Backends that say that they are busy: nobody waits for them while another one can be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from time import monotonic
from typing import Any

import pytest

from tests.integration.test_resilience import stack
from tests.integration.test_stream_failover import text_of
from tests.support.counting_model import count_text
from tests.support.faults import Fault, fault
from tests.support.gateway import Answer, RunningGateway
from tests.support.virtual_time import run_in_virtual_time

POLICY = """
policies:
  default:
    balance: round_robin
    timeout: {connect: 500ms, first_token: 5s, idle: 5s, total: 60s}
    retry: {attempts: 3, backoff: {initial: 1ms, max: 1ms, jitter: none}}
    admission: {max_wait: 10s}
"""
QUIET = "interval: 600s"


def busy(seconds: float, **more: int) -> Fault:
    """503 with Retry-After."""
    return fault("overloaded", headers={"retry-after": f"{seconds:g}"}, **more)


async def timed(asking: Coroutine[Any, Any, Answer]) -> tuple[Answer, float]:
    began = monotonic()
    answer = await asking
    return answer, monotonic() - began


async def each_after(gateway: RunningGateway, count: int, seconds: float) -> list[tuple[Answer, float]]:
    """So many requests, one after the other's answer and a pause: answers, and how long each took."""
    answers = []
    for _ in range(count):
        answers.append(await timed(gateway.chat()))
        await asyncio.sleep(seconds)
    return answers


def test_busy_primaries_are_left_alone_and_the_fallback_answers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with stack(fallback=True, policy=POLICY, health=QUIET) as (gateway, (one, two, other)):
            one.inject(busy(5))
            two.inject(busy(5))
            answers = await each_after(gateway, 20, 0.1)
            assert [answer.text for answer, _ in answers] == [count_text(1, 8)] * 20
            assert {answer.headers["x-seawall-fallback"] for answer, _ in answers} == {"true"}
            assert max(seconds for _, seconds in answers) < 0.2
            assert [len(backend.log.to("/v1/chat/completions")) for backend in (one, two, other)] == [1, 1, 20]
            one.heal()
            two.heal()
            await asyncio.sleep(5.0)
            assert (await gateway.chat()).headers["x-seawall-fallback"] == "false"

    run_in_virtual_time(main(), monkeypatch)


def test_when_all_are_busy_requests_wait_for_the_first_whose_pause_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with stack(fallback=True, policy=POLICY, health=QUIET) as (gateway, (one, two, other)):
            for backend, pause in ((one, 3), (two, 2), (other, 4)):
                backend.inject(busy(pause, times=1))
            first = asyncio.create_task(timed(gateway.chat()))
            await asyncio.sleep(0.1)
            answers = [await first, *await asyncio.gather(*(timed(gateway.chat()) for _ in range(10)))]
            assert [answer.text for answer, _ in answers] == [count_text(1, 8)] * 11
            answer, seconds = answers[0]
            assert (answer.headers["x-seawall-backend"], answer.headers["x-seawall-attempts"]) == ("b1", "4")
            assert 1.9 < seconds < 2.2

    run_in_virtual_time(main(), monkeypatch)


def test_a_pause_longer_than_a_request_may_wait_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with stack(primaries=1, policy=POLICY, health=QUIET) as (gateway, (backend,)):
            backend.inject(busy(30, times=1))
            for attempts in (1, 0):
                answer, seconds = await timed(gateway.chat())
                assert (answer.status, answer.error["error_type"]) == (503, "model_overloaded")
                assert len(answer.error["details"].get("attempts", ())) == attempts
                assert int(answer.headers["retry-after"]) == 30
                assert seconds < 0.2
            assert len(backend.log.to("/v1/chat/completions")) == 1

    run_in_virtual_time(main(), monkeypatch)


def test_many_that_wait_for_a_pause_to_end_are_not_taken_for_a_line_that_does_not_move(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is served while all endpoints are left alone, which says nothing of how fast they will be."""

    async def main() -> None:
        async with stack(primaries=1, policy=POLICY, health=QUIET) as (gateway, (backend,)):
            backend.inject(busy(5, times=1))
            tasks = [asyncio.create_task(gateway.chat())]
            for _ in range(100):
                await asyncio.sleep(0.04)
                tasks.append(asyncio.create_task(gateway.chat()))
            assert [answer.status for answer in await asyncio.gather(*tasks)] == [200] * 101

    run_in_virtual_time(main(), monkeypatch)


def test_a_broken_stream_goes_on_at_the_first_whose_pause_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with stack(primaries=3, policy=POLICY, health=QUIET) as (gateway, (one, _, __)):
            one.inject("rst_mid_stream")
            endpoints, began = gateway.gateway.runtime.endpoints, monotonic()
            endpoints["b1"].away_until, endpoints["b2"].away_until = began + 6.0, began + 2.0
            answer, seconds = await timed(gateway.chat(stream=True, max_tokens=40))
            assert text_of(answer) == count_text(1, 40)
            assert endpoints["b2"].breaker.snapshot(monotonic()).requests == 1
            assert 1.9 < seconds < 2.3

    run_in_virtual_time(main(), monkeypatch)


def test_a_primary_that_is_back_is_asked_after_the_fallback_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with stack(primaries=1, fallback=True, policy=POLICY, health=QUIET) as (gateway, (one, other)):
            gateway.gateway.runtime.endpoints["b0"].away_until = monotonic() + 1.0
            other.inject(fault("hang", seconds=2.0), fault("rst_after_head"))
            answer = await gateway.chat()
            assert (answer.text, answer.headers["x-seawall-fallback"]) == (count_text(1, 8), "false")
            assert len(one.log.to("/v1/chat/completions")) == 1

    run_in_virtual_time(main(), monkeypatch)
