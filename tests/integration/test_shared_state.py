"""`state.redis`: what replicas know together, over a real Redis that is killed, frozen and flushed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from gateway.state.redis import SCRIPT
from tests.integration.test_operations import sample
from tests.support.fault_backend import FaultBackend
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.processes import wait_until
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

KEYS = """
auth:
  keys:
    - {name: team-a, key: secret-a, requests_per_minute: 20}
    - {name: team-b, key: secret-b, concurrency: 2}
"""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def yaml(redis: RedisServer, *backends: FaultBackend, more: str = "") -> str:
    """Circuits that open at the third failure; no active probes that would close them."""
    lines = "\n".join(
        f"  b{number}: {{url: '{backend.url}', kind: vllm, health: {{interval: 1h}}}}"
        for number, backend in enumerate(backends)
    )
    names = ", ".join(f"b{number}" for number in range(len(backends)))
    return (
        f"backends:\n{lines}\nroutes: [{{model: tiny, backends: [{names}], policy: p}}]\n"
        "policies: {p: {retry: {attempts: 1}, admission: {max_wait: 10ms}, circuit_breaker: "
        "{consecutive_failures: 3, open_for: 3s, half_open_probes: 1, max_ejected: 1.0}}}\n"
        f"state: {{redis: '{redis.url}'}}\n{more}"
    )


@asynccontextmanager
async def replicas(count: int, text: str) -> AsyncIterator[list[RunningGateway]]:
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(running_gateway(text)) for _ in range(count)]
        await eventually(lambda: all(sees(one) == count for one in started))
        yield started


def sees(gateway: RunningGateway) -> int:
    """How many processes share its state, by its own account; 0 while Redis is away."""
    state = gateway.gateway.metrics.state
    return state.replicas if state is not None and state.up else 0


def breaker(gateway: RunningGateway, name: str = "b0") -> str:
    return gateway.gateway.runtime.endpoints[name].breaker.state(time.monotonic()).value


async def open_circuit(gateway: RunningGateway, backend: FaultBackend) -> None:
    backend.inject("internal_error")
    for _ in range(3):
        await gateway.chat(headers={"Authorization": "Bearer secret-b"})
    assert breaker(gateway) == "open"


async def test_an_open_circuit_is_open_everywhere_within_a_second_and_closes_everywhere(redis: RedisServer) -> None:
    async with FaultBackend() as backend, replicas(3, yaml(redis, backend)) as gateways:
        await open_circuit(gateways[0], backend)
        before = time.monotonic()
        await eventually(lambda: [breaker(one) for one in gateways] == ["open"] * 3)
        assert time.monotonic() - before < 1.0
        backend.heal()
        await eventually(lambda: "half_open" in [breaker(one) for one in gateways])

        async def closes() -> None:
            while [breaker(one) for one in gateways] != ["closed"] * 3:
                await asyncio.gather(*(one.chat() for one in gateways))
                await asyncio.sleep(0.02)

        await asyncio.wait_for(closes(), 10)


async def test_half_open_probes_are_shared_out(redis: RedisServer) -> None:
    async with FaultBackend() as backend, replicas(3, yaml(redis, backend)) as gateways:
        await open_circuit(gateways[0], backend)
        await eventually(lambda: [breaker(one) for one in gateways] == ["open"] * 3)
        seen = len(list(backend.log.to("/v1/chat/completions")))
        # All ask without pause through the end of the open time: each probe fails and opens the circuit for longer.
        ending = time.monotonic() + 5.5
        while time.monotonic() < ending:
            await asyncio.gather(*(one.chat() for one in gateways))
            await asyncio.sleep(0.02)
        probes = len(list(backend.log.to("/v1/chat/completions"))) - seen
        assert 1 <= probes <= 5, probes  # early tries of a last resort among them; alone, each replica would probe


async def test_a_keys_rate_holds_for_all_replicas_together(redis: RedisServer) -> None:
    async with FaultBackend() as backend, replicas(2, yaml(redis, backend, more=KEYS)) as gateways:
        headers = {"Authorization": "Bearer secret-a"}
        statuses = []
        for number in range(30):
            statuses.append((await gateways[number % 2].chat(headers=headers)).status)
            await asyncio.sleep(0.05)
        good = statuses.count(200)
        assert 20 <= good <= 24, statuses  # the limit, what comes back in these seconds, and one exchange's overshoot
        assert set(statuses) == {200, 429}


async def test_a_keys_concurrency_counts_what_other_replicas_have(redis: RedisServer) -> None:
    async with FaultBackend(per_token=0.2) as backend, replicas(2, yaml(redis, backend, more=KEYS)) as gateways:
        headers = {"Authorization": "Bearer secret-b"}
        running = [asyncio.create_task(gateways[0].chat(headers=headers, max_tokens=30)) for _ in range(2)]
        await backend.log.wait_for_state("running")
        state = gateways[1].gateway.runtime.key_limits._states["team-b"]
        await eventually(lambda: state.elsewhere == 2)
        assert (await gateways[1].chat(headers=headers)).status == 429
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await eventually(lambda: state.elsewhere == 0)
        assert (await gateways[1].chat(headers=headers, max_tokens=1)).status == 200


async def test_the_floor_of_a_retry_budget_is_divided(redis: RedisServer) -> None:
    async with FaultBackend() as backend, replicas(2, yaml(redis, backend)) as gateways:
        budgets = [one.gateway.runtime.routes.routes[0].budget for one in gateways]
        for _ in range(40):
            await gateways[0].chat()
        await eventually(lambda: budgets[1].elsewhere > 5)
        assert budgets[1].balance(time.monotonic()) >= 3  # a share of what the other's requests allow
        assert budgets[1]._rate == pytest.approx(1.5)


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_without_redis_everything_goes_on_and_says_so(redis: RedisServer, how: str) -> None:
    async with FaultBackend() as backend, replicas(2, yaml(redis, backend, more=KEYS)) as gateways:
        if how == "killed":
            redis.kill()
        else:
            redis.freeze()
        headers = {"Authorization": "Bearer secret-b"}
        slowest = 0.0
        for _ in range(40):
            before = time.monotonic()
            assert (await gateways[0].chat(headers=headers)).status == 200
            slowest = max(slowest, time.monotonic() - before)
            await asyncio.sleep(0.02)
        assert slowest < 0.9  # no request waits for Redis' timeout
        await eventually(lambda: [sees(one) for one in gateways] == [0, 0])
        report = (await gateways[0].get("/health")).json
        assert report["overall_status"] == "degraded"
        assert report["checks"]["state"]["status"] == "degraded"
        text = (await gateways[0].get("/metrics")).body.decode()
        assert sample(text, "seawall_state_up") == 0
        assert sample(text, "seawall_state_exchanges_total", result="failed") >= 1
        if how == "frozen":
            redis.thaw()
            await eventually(lambda: [sees(one) for one in gateways] == [2, 2])
            return
        await open_circuit(gateways[0], backend)  # what happens while it is away is told when it is back
        with RedisServer(redis.port):
            await eventually(lambda: [sees(one) for one in gateways] == [2, 2])
            await eventually(lambda: breaker(gateways[1]) == "open")
            gateways[0].gateway.monitor.expire()
            assert (await gateways[0].get("/health")).json["checks"]["state"]["status"] == "healthy"


def tell(redis: Redis, who: int, value: float | None) -> list[float]:
    """One replica's exchange about one number: what the script answers of the others, their sum and their count."""
    empty: dict[str, Any] = {"rates": {}, "circuits": [], "leases": [], "revision": 0}
    message = {"id": f"{who:032x}", "gauges": {"of": value}, **empty}
    answer: list[float] = json.loads(redis.eval(SCRIPT, 1, "{seawall}", json.dumps(message)))["gauges"]["of"]
    return answer


def test_sums_over_replicas_are_exact_whatever_each_tells(redis: RedisServer) -> None:
    numbers = st.none() | st.integers(-5_000_000, 5_000_000).map(lambda thousandths: thousandths / 1000)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 5), numbers, st.booleans()), max_size=60))
    def every_sequence(told: list[tuple[int, float | None, bool]]) -> None:
        client.flushall()
        known: dict[int, float] = {}
        for who, value, due in told:
            if due:  # as if a second had gone by: the sum is reckoned afresh
                client.hset("{seawall}:sum:of", "=swept", "1") if client.exists("{seawall}:sum:of") else None
            others = [number for one, number in known.items() if one != who]
            assert tell(client, who, value) == [pytest.approx(sum(others), abs=1e-6), len(others)]
            known.pop(who, None)
            if value is not None:
                known[who] = value

    with Redis(port=redis.port) as client:
        every_sequence()


def test_a_replica_that_went_silent_counts_no_more(redis: RedisServer) -> None:
    with Redis(port=redis.port) as client:
        tell(client, 1, 7.5)
        tell(client, 2, 1.0)
        wait_until(lambda: tell(client, 2, 1.0) == [0, 0], 6, "the end of what the silent one told")
        assert tell(client, 3, None) == [1.0, 1]


@pytest.mark.parametrize("replicas", [5, 100])
def test_an_exchange_costs_the_same_however_many_replicas_there_are(redis: RedisServer, replicas: int) -> None:
    """Counted in commands that the script runs, which is what does not vary with the machine."""
    with Redis(port=redis.port) as client:
        for who in range(replicas):
            tell(client, who, 1.0)

        def run() -> int:
            return sum(int(one["calls"]) for name, one in client.info("commandstats").items() if "hgetall" in name)

        client.hset("{seawall}:sum:of", "=swept", f"{int(time.time() * 1000)}")
        before = run()
        for who in range(5):
            assert tell(client, who, 2.0)[1] == replicas - 1
        assert run() - before <= 1


async def test_a_flushed_redis_is_told_again(redis: RedisServer) -> None:
    async with FaultBackend() as backend, replicas(2, yaml(redis, backend, more=KEYS)) as gateways:
        headers = {"Authorization": "Bearer secret-a"}
        statuses = [(await gateways[0].chat(headers=headers)).status for _ in range(20)]
        assert statuses == [200] * 20
        await open_circuit(gateways[0], backend)
        await eventually(lambda: breaker(gateways[1]) == "open")
        assert redis.command("FLUSHALL").startswith(b"+OK")
        await eventually(lambda: b":1" in redis.command("EXISTS", "{seawall}:circuits"))
        backend.heal()
        assert (await gateways[1].chat(headers=headers)).status in (429, 503)
        limit = next(limit for key, unit, limit in gateways[1].gateway.runtime.key_limits.rates() if key == "team-a")
        await eventually(lambda: limit.quota(time.monotonic()).remaining <= 1)


async def test_every_key_expires_and_none_tells_a_name(redis: RedisServer) -> None:
    async with FaultBackend() as backend, replicas(2, yaml(redis, backend, more=KEYS)) as gateways:
        for secret in ("secret-a", "secret-b"):
            await gateways[0].chat(headers={"Authorization": f"Bearer {secret}"})
        await open_circuit(gateways[1], backend)
        await eventually(lambda: b"circuits" in redis.command("KEYS", "*"))
        keys = [line for line in redis.command("KEYS", "*").decode().split("\r\n") if line.startswith("{")]
        assert len(keys) >= 4
        for key in keys:
            assert key.startswith("{seawall}:")
            assert int(redis.command("PTTL", key).strip()[1:]) > 0, key
            assert not any(secret in key for secret in ("team", "secret", "tiny", "127.0.0.1"))
