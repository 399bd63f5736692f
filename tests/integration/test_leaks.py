"""After load nothing is left: file descriptors, tasks, timers, buffers, slots; and memory is flat under churn."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from gateway.attempt import Attempt
from gateway.context import RequestContext
from gateway.http.message import Request
from gateway.upstream import pool
from tests.integration.test_operations import config
from tests.support.fault_backend import FaultBackend
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.processes import FaultProcess, free_port
from tests.support.serving import Serving, gateway_yaml
from tests.support.waiting import eventually


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def timers(loop: asyncio.AbstractEventLoop) -> int:
    """Timers that would still run; asyncio's own loop only."""
    return sum(not handle.cancelled() for handle in loop._scheduled)  # type: ignore[attr-defined]


def open_now() -> list[int]:
    """Descriptors, tasks and timers."""
    return [descriptors(), len(asyncio.all_tasks()), timers(asyncio.get_running_loop())]


def exceeds(idle: list[int]) -> list[int]:
    """Those that are above what they were, but for a probe of each backend that may be running."""
    return [now for now, before, probes in zip(open_now(), idle, (4, 4, 12), strict=True) if now > before + probes]


async def leave_halfway(gateway: RunningGateway) -> None:
    """A client that goes in the middle of a stream."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "count"}], "max_tokens": 500, "stream": True}
    async with (
        aiohttp.ClientSession() as session,
        session.post(gateway.url + "/v1/chat/completions", json=body) as answer,
    ):
        await answer.content.readany()


async def storm(gateway: RunningGateway, backend: FaultBackend) -> None:
    """Good requests, bad ones, streams, clients that leave, backends that break."""
    work = []
    for number in range(120):
        match number % 6:
            case 0:
                work.append(gateway.chat())
            case 1:
                work.append(gateway.chat(stream=True))
            case 2:
                work.append(gateway.chat(model="nope"))
            case 3:
                work.append(leave_halfway(gateway))
            case 4:
                work.append(gateway.get("/status"))
            case 5:
                work.append(gateway.chat(stream=True, max_tokens=100))
        if number == 60:
            backend.inject("rst_mid_stream")
        if number == 90:
            backend.heal()
    await asyncio.gather(*work, return_exceptions=True)


async def test_no_request_waits_for_the_garbage_collector() -> None:
    """Their bodies would: with a collector that comes seldom they were a gigabyte."""
    async with (
        FaultBackend(per_token=0.002) as one,
        FaultBackend(per_token=0.002) as two,
        running_gateway(config(one, two)) as gateway,
    ):
        inner = gateway.gateway
        await storm(gateway, one)
        gc.collect()
        gc.disable()
        try:
            await storm(gateway, one)
            await eventually(lambda: inner.services.in_flight == 0)
            await asyncio.sleep(0)  # what ended in this turn of the loop is booked at its end
            told = [record for story in inner.services.requests.recent(1000) for record in story.attempts]
            assert told
            assert all(record.attempt is None for record in told)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            waited = [
                type(left).__name__ for left in gc.garbage if isinstance(left, Attempt | Request | RequestContext)
            ]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert waited == []


async def test_after_load_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "IDLE_TIMEOUT", 0.0)
    async with (
        FaultBackend(per_token=0.002) as one,
        FaultBackend(per_token=0.002) as two,
        running_gateway(config(one, two)) as gateway,
    ):
        inner = gateway.gateway
        idle: list[int] | None = None
        for _ in range(3):  # after the first, what is made once, such as caches and threads, is there
            await storm(gateway, one)
            one.heal()
            await gateway.session.close()
            gateway.session = aiohttp.ClientSession()
            await eventually(lambda: inner.services.in_flight == 0 and inner.server.connections == 0)
            assert inner.server.buffered == 0
            for endpoint in inner.runtime.endpoints.values():
                assert endpoint.in_flight == 0
                await eventually(lambda: endpoint.pool.open == 0)  # noqa: B023
            assert [len(route.room) for route in inner.runtime.routes.routes] == [0]
            gc.collect()
            await eventually(lambda: idle is None or exceeds(idle) == [])  # noqa: B023
            idle = idle or open_now()
        await gateway.session.close()
    await eventually(lambda: len(asyncio.all_tasks()) == 1)
    assert timers(asyncio.get_running_loop()) <= 1


@pytest.fixture
def backends() -> Iterator[tuple[FaultProcess, FaultProcess]]:
    with FaultProcess("--per-token", "0.001") as one, FaultProcess("--per-token", "0.001") as two:
        yield one, two


async def churn(url: str, until: float, seed: int, keys: int) -> int:
    """New clients, models, keys and correlation IDs with each request; how many were sent."""
    rng = random.Random(seed)
    sent = 0
    while time.monotonic() < until:
        async with aiohttp.ClientSession() as session:
            for _ in range(rng.randrange(1, 20)):
                good = rng.random() < 0.8
                body = {
                    "model": "tiny" if good else f"model-{rng.getrandbits(64):x}",
                    "messages": [{"role": "user", "content": "x" * rng.randrange(2000)}],
                    "max_tokens": 4,
                    "stream": rng.random() < 0.3,
                }
                headers = {
                    "Authorization": f"Bearer secret-{rng.randrange(keys)}" if good else f"Bearer {rng.random()}",
                    "X-Correlation-ID": f"soak-{rng.getrandbits(96):x}",
                    "X-Session-ID": f"{rng.getrandbits(64):x}",
                }
                path = "/v1/chat/completions" if rng.random() < 0.95 else f"/v1/{rng.getrandbits(40):x}"
                try:
                    async with session.post(url + path, json=body, headers=headers) as answer:
                        if rng.random() < 0.9:  # else the client goes without it
                            await answer.read()
                except aiohttp.ClientError:
                    pass
                sent += 1
    return sent


def generation(backends: tuple[FaultProcess, FaultProcess], number: int) -> str:
    """The configuration after so many changes: 40 keys are as before; 10 keys, a route and a policy are new."""
    names = [f"k{n}" if n < 40 else f"k{n}-{number}" for n in range(50)]
    keys = "\n".join(f"    - {{name: {k}, key: secret-{n}, requests_per_minute: 100000}}" for n, k in enumerate(names))
    text = gateway_yaml(*backends, more=f"auth:\n  keys:\n{keys}")
    text = text.replace("routes: [", f"routes: [{{model: m{number}, backends: [b0], policy: p{number}}}, ")
    return text + f"policies: {{p{number}: {{retry: {{attempts: {1 + number % 3}}}}}}}\n"


def held(gateway: Serving, times: int) -> dict[str, Any]:
    """What the gateway holds, when asked for the nth time."""
    gateway.signal(signal.SIGUSR1)
    gateway.wait_for_count('counts {"descriptors"', times)
    lines = [line for line in gateway.output.splitlines() if line.startswith('counts {"descriptors"')]
    found: dict[str, Any] = json.loads(lines[-1].removeprefix("counts "))
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_memory_is_flat_under_churn(backends: tuple[FaultProcess, FaultProcess], tmp_path: Path) -> None:
    """`SEAWALL_SOAK` is how long, in seconds (1800 for the long one); the figures are printed."""
    seconds = float(os.environ.get("SEAWALL_SOAK", "60"))
    path = tmp_path / "gateway.yaml"
    path.write_text(generation(backends, 0))
    with Serving(path, free_port(), module="tests.support.counted_gateway") as gateway:
        process = psutil.Process(gateway.pid)
        samples: list[tuple[float, int, int]] = []
        warm = min(60.0, seconds / 4)
        await asyncio.gather(*(churn(gateway.url, time.monotonic() + warm, seed, 50) for seed in range(8, 16)))
        await eventually(lambda: process.num_fds() < 60, timeout=30)
        before = held(gateway, 1)
        begun = time.monotonic()
        clients = [asyncio.create_task(churn(gateway.url, begun + seconds, seed, 50)) for seed in range(8)]
        reloads = 0
        while time.monotonic() < begun + seconds:
            await asyncio.sleep(min(5.0, seconds / 20))
            samples.append((time.monotonic() - begun, process.memory_info().rss, process.num_fds()))
            reloads += 1
            path.write_text(generation(backends, reloads))
        sent = sum(await asyncio.gather(*clients))
        await asyncio.to_thread(gateway.wait_for_line, '"event":"reloaded"')
        await eventually(lambda: process.num_fds() < 60, timeout=30)
        after = held(gateway, 2)
        settled = [rss for at, rss, _ in samples if at > seconds / 3]
        early, late = settled[: len(settled) // 4 or 1], settled[-(len(settled) // 4 or 1) :]
        grown = sum(late) / len(late) / (sum(early) / len(early)) - 1
        print(
            f"\nsoak: {seconds:g} s, {sent} requests, {reloads} changes of the file; "
            f"RSS {samples[0][1] / 2**20:.1f} -> {samples[-1][1] / 2**20:.1f} MiB "
            f"({grown:+.1%} over the last two thirds), most {max(rss for _, rss, _ in samples) / 2**20:.1f}"
        )
        for name in ("descriptors", "tasks", "timers", "objects"):
            print(f"{name}: {before[name]} -> {after[name]}")
        more = {kind: count - before["kinds"].get(kind, 0) for kind, count in after["kinds"].items()}
        print("kinds that grew:", {kind: count for kind, count in more.items() if count > 200})
        assert grown < 0.05
        assert after["tasks"] <= before["tasks"] + 8  # probes under way
        assert after["timers"] <= before["timers"] + 20
        assert after["descriptors"] <= before["descriptors"] + 8
