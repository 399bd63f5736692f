"""Everything down and back, endpoints that come back, and engines that stand still behind a healthy server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import monotonic

import pytest

from tests.integration.test_admission import until
from tests.integration.test_resilience import stack
from tests.support.counting_model import count_text
from tests.support.fault_backend import FaultBackend
from tests.support.faults import fault
from tests.support.gateway import Answer, RunningGateway, running_gateway
from tests.support.processes import free_port

#: As users have it: the defaults, but for a slower interval of probes, which recovery must not depend on.
DEFAULT = "policies: {default: {admission: {max_wait: 8s}}}\n"


@pytest.fixture(autouse=True)
def _probes_as_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.integration import test_resilience

    monkeypatch.setattr(test_resilience, "HEALTH", "interval: 5s")


def asked(backends: Iterable[FaultBackend]) -> int:
    return sum(len(list(backend.log.to("/v1/chat/completions"))) for backend in backends)


async def clients(gateway: RunningGateway, seconds: float, pause: float) -> list[asyncio.Task[tuple[Answer, float]]]:
    """One request each `pause` seconds for so long."""

    async def one() -> tuple[Answer, float]:
        started = monotonic()
        answer = await gateway.chat()
        return answer, monotonic() - started

    tasks, end = [], monotonic() + seconds
    while monotonic() < end:
        tasks.append(asyncio.create_task(one()))
        await asyncio.sleep(pause)
    return tasks


@pytest.mark.parametrize("primaries", [1, 2])
async def test_everything_down_for_a_while_and_back_costs_no_client_its_answer(primaries: int) -> None:
    async with stack(primaries=primaries, policy=DEFAULT) as (gateway, backends):
        for _ in range(4):
            assert (await gateway.chat()).status == 200
        before = asked(backends)
        for backend in backends:
            await backend.kill()
        tasks = await clients(gateway, 3.0, 0.02)
        for backend in backends:
            await backend.start()
        back = monotonic()
        tasks += await clients(gateway, 1.0, 0.02)
        answers = [await task for task in tasks]
        assert [answer.body for answer, _ in answers if answer.status != 200] == []
        assert {answer.text for answer, _ in answers} == {count_text(1, 8)}
        assert monotonic() - back < 3.0
        assert asked(backends) - before <= 1.2 * len(tasks)
        assert sum(gateway.gateway.metrics.route("tiny").shed.values()) == 0


async def test_in_an_outage_of_errors_backends_get_at_most_a_fifth_more_than_clients_ask() -> None:
    async with stack(policy=DEFAULT.replace("8s", "2s")) as (gateway, backends):
        for backend in backends:
            backend.inject("internal_error")
        tasks = await clients(gateway, 3.0, 0.01)
        answers = [await task for task in tasks]
        assert {answer.status for answer, _ in answers} <= {502, 503}
        assert max(seconds for _, seconds in answers) < 4
        assert asked(backends) <= 1.2 * len(answers)


async def test_when_the_outage_goes_on_clients_are_told_at_once() -> None:
    policy = "policies: {default: {admission: {max_wait: 300ms}, retry: {attempts: 1}}}\n"
    async with stack(primaries=1, policy=policy) as (gateway, (backend,)):
        await gateway.chat()
        await backend.kill()
        waits = []
        for _ in range(6):
            started = monotonic()
            answer = await gateway.chat()
            waits.append(monotonic() - started)
            assert answer.status in (502, 503)
            assert "retry-after" in answer.headers
        assert waits[0] >= 0.25
        assert waits[-1] < 0.2
        assert gateway.gateway.metrics.route("tiny").shed["outage"] >= 1


async def test_no_room_no_wait() -> None:
    policy = "policies: {default: {admission: {max_wait: 0s}}}\n"
    async with stack(primaries=1, policy=policy) as (gateway, (backend,)):
        await backend.kill()
        started = monotonic()
        assert (await gateway.chat()).status in (502, 503)
        assert monotonic() - started < 1.0


async def test_a_client_that_leaves_while_everything_is_down_is_forgotten() -> None:
    async with stack(primaries=1, policy=DEFAULT) as (gateway, (backend,)):
        await gateway.chat()
        await backend.kill()
        task = asyncio.create_task(gateway.chat())
        numbers = gateway.gateway.metrics.route("tiny")
        await until(lambda: numbers.queue_length() == 1)
        task.cancel()
        await until(lambda: numbers.queue_length() == 0)


async def test_a_dead_endpoint_that_comes_back_is_used_within_two_seconds() -> None:
    policy = DEFAULT.replace("{admission", "{balance: round_robin, admission")
    async with stack(policy=policy, health="interval: 5s, unhealthy_after: 1") as (gateway, (dies, _)):
        await gateway.chat()
        await dies.kill()
        for _ in range(12):
            assert (await gateway.chat()).status == 200
            await asyncio.sleep(0.05)
        endpoint = gateway.gateway.runtime.endpoints["b0"]
        await until(lambda: not endpoint.healthy)
        await dies.start()
        before, back = asked([dies]), monotonic()
        while asked([dies]) == before:
            assert (await gateway.chat()).status == 200
            await asyncio.sleep(0.02)
        assert monotonic() - back < 2.0


async def test_an_engine_that_stands_still_behind_a_healthy_server_is_ejected_and_comes_back_when_it_moves() -> None:
    policy = "policies: {default: {balance: round_robin, timeout: {idle: 30s}}}\n"
    async with stack(policy=policy, health="interval: 50ms") as (gateway, (stalls, good)):
        endpoint = gateway.gateway.runtime.endpoints["b0"]
        endpoint.progress.window = 0.3
        stalls.inject(fault("hang", after=3))
        started = [asyncio.create_task(gateway.chat(stream=True)) for _ in range(2)]
        await until(lambda: not endpoint.healthy)
        status = (await gateway.get("/status")).json["endpoints"]["b0"]
        assert (status["state"], status["healthy"]) == ("stalled", False)
        before = asked([good])
        for _ in range(4):
            assert (await gateway.chat()).headers["x-seawall-backend"] == "b1"
        assert asked([good]) == before + 4
        stalls.heal()
        assert [answer.streamed for answer in await asyncio.gather(*started)] == [count_text(1, 8)] * 2
        await until(lambda: endpoint.healthy)


async def test_a_merely_busy_engine_is_not_ejected() -> None:
    async with stack(primaries=1, policy="policies: {}\n", health="interval: 50ms") as (gateway, (busy,)):
        endpoint = gateway.gateway.runtime.endpoints["b0"]
        endpoint.progress.window = 0.3
        busy.per_token = 0.05
        busy.gauges["num_requests_waiting"] = 500
        answers = await asyncio.gather(*[gateway.chat(stream=True, max_tokens=30) for _ in range(3)])
        assert [answer.status for answer in answers] == [200] * 3
        assert endpoint.state == "healthy"


async def test_a_server_that_answers_requests_but_no_checks_in_time_stays_in_use() -> None:
    health = "interval: 1s, timeout: 50ms, unhealthy_after: 1"
    async with stack(primaries=1, policy="policies: {}\n", health=health) as (gateway, (busy,)):
        await gateway.chat()
        busy.inject(fault("hang", path="/health"))
        endpoint = gateway.gateway.runtime.endpoints["b0"]
        while endpoint.state != "unhealthy":
            assert (await gateway.chat()).status == 200
        for _ in range(5):
            assert (await gateway.chat()).status == 200
        assert endpoint.message == "too busy to answer checks in time"
        await until(lambda: not endpoint.healthy)


async def test_the_context_length_is_learned_and_decides_where_long_prompts_go() -> None:
    async with stack(primaries=1, fallback=True, policy="policies: {}\n") as (gateway, (short, long)):
        endpoints = gateway.gateway.runtime.endpoints
        await until(lambda: endpoints["b1"].context_length == 4096)
        assert (await gateway.get("/status")).json["endpoints"]["b1"]["context_length"] == 4096
        short.inject("context_length")
        answer = await gateway.chat()
        assert answer.status == 200
        assert answer.headers["x-seawall-backend"] == "b1"
        assert asked([long]) == 1


async def test_our_own_key_refused_is_our_fault_and_never_the_callers() -> None:
    for name in ("unauthorized", "forbidden"):
        async with stack(primaries=1, policy="policies: {default: {retry: {attempts: 1}}}\n") as (gateway, (backend,)):
            backend.inject(name)
            answer = await gateway.chat(headers={"Authorization": "Bearer sk-client"})
            assert answer.status == 502
            assert answer.error["code"] == "backend_credentials_rejected"
            assert answer.headers["x-should-retry"] == "false"
            assert "www-authenticate" not in answer.headers


async def test_backends_that_never_answered_anything_are_not_waited_for() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    text = f"backends: {{a: {{url: '{url}', kind: vllm}}}}\nroutes: [{{model: tiny, backends: [a]}}]"
    async with running_gateway(text) as gateway:
        began = monotonic()
        for _ in range(3):
            answer = await gateway.chat()
            assert (answer.status, answer.error["error_type"]) == (502, "backend_unreachable")
        assert monotonic() - began < 5  # not three times `max_wait`, which is 10 s
