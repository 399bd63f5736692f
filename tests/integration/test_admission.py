"""Limits on what an endpoint is given, and the line before them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from time import monotonic

import pytest

from gateway.observe.metrics import RouteMetrics
from tests.support.counting_model import count_text
from tests.support.fault_backend import FaultBackend
from tests.support.faults import fault
from tests.support.gateway import Answer, RunningGateway, running_gateway
from tests.support.virtual_time import run_in_virtual_time

KEYS = """
auth:
  keys:
    - {name: low, key: sk-low, priority: 2}
    - {name: high, key: sk-high, priority: 8}
"""


@asynccontextmanager
async def stack(
    policy: str, *, backends: int = 1, extra: str = "", routes: str = "", model: str = "null", **settings: float
) -> AsyncIterator[tuple[RunningGateway, FaultBackend, list[FaultBackend]]]:
    """A gateway with `policy` as its default before counting backends b0, b1 …"""
    servers = [FaultBackend(**settings) for _ in range(backends)]  # type: ignore[arg-type]
    for server in servers:
        await server.start()
    lines = "\n".join(
        f"  b{n}: {{url: '{server.url}', kind: vllm, model: {model}}}" for n, server in enumerate(servers)
    )
    names = ", ".join(f"b{n}" for n in range(backends))
    text = f"""
server: {{listen: '127.0.0.1:0'}}
backends:
{lines}
routes:
  - {{model: tiny, backends: [{names}]}}
{routes}
policies:
  default: {policy}
{extra}"""
    try:
        async with running_gateway(text) as gateway:
            yield gateway, servers[0], servers
    finally:
        for server in servers:
            await server.kill()


def numbers(gateway: RunningGateway) -> RouteMetrics:
    return gateway.gateway.metrics.route("tiny")


async def until(met: Callable[[], bool]) -> None:
    """Waits for a condition, five seconds at most."""
    for _ in range(1000):
        if met():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come about within 5 s")


def ask(gateway: RunningGateway, name: str = "", **headers: str) -> asyncio.Task[Answer]:
    named = {"X-Correlation-ID": name} if name else {}
    return asyncio.create_task(gateway.chat(headers=named | {k.replace("_", "-"): v for k, v in headers.items()}))


async def waiting(gateway: RunningGateway, count: int) -> None:
    """Until so many requests stand in line."""
    await until(lambda: numbers(gateway).queue_length() == count)


def order(backend: FaultBackend) -> list[str]:
    return [seen.headers["x-correlation-id"] for seen in backend.log.to("/v1/chat/completions")]


ONE = "{concurrency: {mode: fixed, limit: 1}, admission: {max_queue: 3, max_wait: 5s}}"


async def test_requests_beyond_the_limit_wait_for_a_slot_and_the_wait_is_not_overhead() -> None:
    async with stack(ONE.replace("max_queue: 3", "max_queue: 100"), first_token=0.03) as (gateway, backend, _):
        answers = await asyncio.gather(*[gateway.chat() for _ in range(6)])
        assert [answer.text for answer in answers] == [count_text(1, 8)] * 6
        seen = sorted(backend.log.to("/v1/chat/completions"), key=lambda each: each.received_at)
        assert all(b.received_at - a.received_at >= 0.03 for a, b in pairwise(seen))
        assert max(float(answer.headers["x-seawall-overhead-ms"]) for answer in answers) < 60
        assert sum(numbers(gateway).queue_wait.counts) == 5
        assert numbers(gateway).queue_wait.sum > 0.3
        assert numbers(gateway).queue_length() == 0
        assert b'seawall_queue_wait_seconds_count{route="tiny"} 5' in (await gateway.get("/metrics")).body


async def test_when_the_line_is_full_the_next_is_told_when_to_come_back() -> None:
    async with stack(ONE) as (gateway, backend, _):
        backend.inject("hang")
        tasks = [ask(gateway) for _ in range(4)]
        await waiting(gateway, 3)
        refused = await gateway.chat()
        assert refused.status == 503
        assert refused.error["error_type"] == "model_overloaded"
        assert refused.error["is_retryable"] is True
        assert int(refused.headers["retry-after"]) >= 1
        assert numbers(gateway).shed["queue_full"] == 1
        backend.heal()
        assert [answer.status for answer in await asyncio.gather(*tasks)] == [200] * 4


async def test_nobody_waits_longer_than_max_wait() -> None:
    async with stack(ONE.replace("5s", "100ms")) as (gateway, backend, _):
        backend.inject("hang")
        first = ask(gateway)
        await until(lambda: gateway.gateway.runtime.endpoints["b0"].in_flight == 1)
        started = monotonic()
        late = await gateway.chat()
        assert late.status == 503
        assert "retry-after" in late.headers
        assert 0.1 <= monotonic() - started < 1
        assert numbers(gateway).shed["max_wait"] == 1
        backend.heal()
        assert (await first).status == 200


async def test_a_clients_deadline_in_the_line_is_its_own() -> None:
    async with stack(ONE) as (gateway, backend, _):
        backend.inject("hang")
        first = ask(gateway)
        await until(lambda: gateway.gateway.runtime.endpoints["b0"].in_flight == 1)
        late = await gateway.chat(headers={"X-Request-Timeout": "0.1"})
        assert late.error["error_type"] == "deadline_exceeded"
        backend.heal()
        assert (await first).status == 200


async def test_higher_priorities_go_first_and_the_header_can_only_lower_a_keys_own() -> None:
    async with stack(ONE.replace("max_queue: 3", "max_queue: 10"), extra=KEYS) as (gateway, backend, _):
        backend.inject("hang")
        first = ask(gateway, "first", Authorization="Bearer sk-low")
        await until(lambda: gateway.gateway.runtime.endpoints["b0"].in_flight == 1)
        tasks = [first]
        for name, key, asked in [
            ("low", "sk-low", None),
            ("low-asks-9", "sk-low", "9"),
            ("high-asks-1", "sk-high", "1"),
            ("high", "sk-high", None),
        ]:
            headers = {"Authorization": f"Bearer {key}"} | ({"X_Priority": asked} if asked else {})
            tasks.append(ask(gateway, name, **headers))
            await waiting(gateway, len(tasks) - 1)
        backend.heal()
        await asyncio.gather(*tasks)
        assert order(backend) == ["first", "high", "low", "low-asks-9", "high-asks-1"]


async def test_a_full_line_sheds_the_lowest_priority_for_a_higher_one() -> None:
    async with stack(ONE.replace("max_queue: 3", "max_queue: 1")) as (gateway, backend, _):
        backend.inject("hang")
        first = ask(gateway)
        await until(lambda: gateway.gateway.runtime.endpoints["b0"].in_flight == 1)
        low = ask(gateway, X_Priority="1")
        await waiting(gateway, 1)
        high = ask(gateway, X_Priority="7")
        assert (await low).status == 503
        assert numbers(gateway).shed["displaced"] == 1
        backend.heal()
        assert [answer.status for answer in await asyncio.gather(first, high)] == [200, 200]


async def test_a_client_that_leaves_the_line_frees_its_place() -> None:
    async with stack(ONE.replace("max_queue: 3", "max_queue: 1")) as (gateway, backend, _):
        backend.inject("hang")
        first = ask(gateway)
        await until(lambda: gateway.gateway.runtime.endpoints["b0"].in_flight == 1)
        leaves = ask(gateway)
        await waiting(gateway, 1)
        leaves.cancel()
        await waiting(gateway, 0)
        second = ask(gateway)
        await waiting(gateway, 1)
        backend.heal()
        assert [answer.status for answer in await asyncio.gather(first, second)] == [200, 200]
        assert gateway.gateway.runtime.endpoints["b0"].in_flight == 0


async def test_when_all_leave_at_once_the_line_is_open_again() -> None:
    policy = "{concurrency: {mode: fixed, limit: 1}, admission: {max_wait: 2s}}"
    async with stack(policy) as (gateway, backend, _):
        backend.inject("hang")
        leaving = [ask(gateway) for _ in range(6)]
        await waiting(gateway, 5)
        for one in leaving:
            one.cancel()
        await waiting(gateway, 0)
        backend.heal()
        assert (await gateway.chat()).status == 200


async def test_a_retry_waits_for_the_endpoint_that_is_left() -> None:
    breaker = "circuit_breaker: {consecutive_failures: 1}"
    policy = f"{{balance: round_robin, concurrency: {{mode: fixed, limit: 1}}, {breaker}}}"
    async with stack(policy, backends=2) as (gateway, bad, servers):
        servers[1].inject("hang")
        bad.inject("hang")
        held = [ask(gateway, "a")]
        await until(lambda: order(bad) == ["a"])
        held.append(ask(gateway, "b"))
        await until(lambda: order(servers[1]) == ["b"])
        bad.heal()
        bad.inject(fault("internal_error"))
        await until(lambda: gateway.gateway.runtime.endpoints["b0"].in_flight == 0)
        retried = ask(gateway, "c")
        await waiting(gateway, 1)
        assert order(bad) == ["a", "c"]
        servers[1].heal()
        assert [answer.status for answer in await asyncio.gather(*held, retried)] == [200] * 3


async def test_those_who_wait_for_an_endpoint_that_dies_wait_for_it_to_come_back() -> None:
    policy = "{concurrency: {mode: fixed, limit: 1}, circuit_breaker: {consecutive_failures: 1}, retry: {attempts: 1}}"
    async with stack(policy) as (gateway, backend, _):
        backend.inject("hang")
        tasks = [ask(gateway) for _ in range(5)]
        await waiting(gateway, 4)
        await until(lambda: len(order(backend)) == 1)
        await backend.kill()
        await waiting(gateway, 5)
        backend.heal()
        await backend.start()
        assert [answer.status for answer in await asyncio.gather(*tasks)] == [200] * 5


async def test_one_whose_turn_came_in_vain_has_its_place_though_the_line_is_full_again() -> None:
    limits = "concurrency: {mode: fixed, limit: 1}, admission: {max_queue: 1}"
    policy = f"{{{limits}, circuit_breaker: {{consecutive_failures: 1}}, retry: {{attempts: 1}}}}"
    async with stack(policy) as (gateway, backend, _):
        backend.inject("hang")
        first = ask(gateway, "first")
        await until(lambda: order(backend) == ["first"])
        called = ask(gateway, "called")
        await waiting(gateway, 1)
        backend.heal()
        backend.inject("hang")
        await until(lambda: order(backend) == ["first", "called"])
        later = ask(gateway, "later")
        await waiting(gateway, 1)
        await backend.kill()
        await waiting(gateway, 2)
        backend.heal()
        await backend.start()
        assert [answer.status for answer in await asyncio.gather(first, called, later)] == [200] * 3
        assert sum(numbers(gateway).shed.values()) == 0


async def test_routes_that_share_an_endpoint_both_get_their_turns() -> None:
    second = "  - {model: other, backends: [b0]}"
    async with stack(ONE, first_token=0.005, routes=second, model="tiny") as (gateway, _, __):
        other = [asyncio.create_task(gateway.chat(model="other")) for _ in range(3)]
        mine = [ask(gateway) for _ in range(3)]
        assert [answer.status for answer in await asyncio.gather(*mine, *other)] == [200] * 6


async def test_an_endpoint_that_says_it_is_busy_is_given_less() -> None:
    policy = "{concurrency: {mode: adaptive, min: 2, max: 64}, retry: {attempts: 1}}"
    async with stack(policy) as (gateway, backend, _):
        before = gateway.gateway.runtime.endpoints["b0"].limit
        backend.inject(fault("overloaded", headers={"retry-after": "0"}))
        await gateway.chat()
        limit = gateway.gateway.runtime.endpoints["b0"].limit
        assert limit < before
        metrics = (await gateway.get("/metrics")).body
        assert f'seawall_endpoint_concurrency_limit{{backend="b0"}} {limit}.0'.encode() in metrics


async def test_a_line_that_a_reload_leaves_as_it_is_keeps_those_who_wait(tmp_path: object) -> None:
    async with stack(ONE) as (gateway, backend, _):
        backend.inject("hang")
        tasks = [ask(gateway) for _ in range(3)]
        await waiting(gateway, 2)
        before = gateway.gateway.runtime
        from gateway.runtime import build

        after = build(before.config, before, gateway.gateway._random)
        assert after.routes.routes[0].room is before.routes.routes[0].room
        backend.heal()
        assert [answer.status for answer in await asyncio.gather(*tasks)] == [200] * 3


FOUR = "{mode: fixed, limit: 4}"
ADAPTIVE = "{mode: adaptive, min: 4, max: 64}"


@pytest.mark.parametrize("mode", [FOUR, ADAPTIVE])
def test_at_five_times_the_load_the_work_done_stays_and_the_rest_is_told_quickly(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server with four places of 40 ms each, asked as often as it can answer, and then five times as often."""
    policy = f"{{concurrency: {mode}, admission: {{max_queue: 20, max_wait: 500ms}}}}"

    async def offered(gateway: RunningGateway, rate: float, seconds: float) -> list[tuple[Answer, float, float]]:
        """Answers, when they came (seconds since the first was asked for), and how long they took."""
        answers: list[tuple[Answer, float, float]] = []
        began = monotonic()

        async def one(at: float) -> None:
            await asyncio.sleep(began + at - monotonic())
            started = monotonic()
            answer = await gateway.chat(max_tokens=1)
            answers.append((answer, monotonic() - began, monotonic() - started))

        async with asyncio.TaskGroup() as group:
            for number in range(int(rate * seconds)):
                group.create_task(one(number / rate))
        return answers

    async def main() -> None:
        async with stack(policy, first_token=0.04, concurrency=4) as (gateway, _, __):
            peak = [at for answer, at, _ in await offered(gateway, 100, 1.0) if answer.status == 200]
            overloaded = await offered(gateway, 500, 2.0)
        done = [at for answer, at, _ in overloaded if answer.status == 200]
        assert sum(at <= 2.0 for at in done) / 2 >= 0.9 * sum(at <= 1.0 for at in peak)
        assert len(peak) >= 95
        refused = [(answer, seconds) for answer, _, seconds in overloaded if answer.status != 200]
        assert len(refused) >= 600
        assert {answer.status for answer, _ in refused} == {503}
        assert all("retry-after" in answer.headers for answer, _ in refused)
        assert max(seconds for _, seconds in refused) < 0.05
        assert max(seconds for _, _, seconds in overloaded) < 1.5

    run_in_virtual_time(main(), monkeypatch)
