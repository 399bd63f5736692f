"""Alerts from end to end: a fault, the message at a real webhook, and the message that it is over."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
from aiohttp import web

from gateway.observe import alert_targets, alerts, conditions
from policies.alerts import Alert, Condition, Message
from tests.support.fault_backend import FaultBackend
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.processes import Process
from tests.support.redis_server import RedisServer

ROOT = Path(__file__).parents[2]
SECRET = "wh00k-t0ken"


class Webhook:
    """Takes what apprise's `json://` posts. `status`: of its answers; `delay`: seconds before them."""

    def __init__(self, status: int = 200, delay: float = 0.0) -> None:
        self.status, self.delay = status, delay
        self.messages: list[dict[str, Any]] = []
        self.asked = 0
        self._runner: web.AppRunner | None = None
        self._came = asyncio.Event()

    @property
    def target(self) -> str:
        assert self._runner is not None
        return f"json://{SECRET}@127.0.0.1:{self._runner.addresses[0][1]}/{SECRET}"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.add_routes([web.post("/{path:.*}", self._receive)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def wait_for(self, text: str, timeout: float = 15.0) -> dict[str, Any]:
        """The first message that has the text in it."""
        async with asyncio.timeout(timeout):
            while True:
                for message in self.messages:
                    if text in message["message"]:
                        return message
                self._came.clear()
                await self._came.wait()

    async def _receive(self, request: web.Request) -> web.Response:
        self.asked += 1
        await asyncio.sleep(self.delay)
        if self.status == 200:
            self.messages.append(await request.json())
        self._came.set()
        return web.Response(status=self.status)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything in milliseconds that is seconds and minutes for users."""
    monkeypatch.setattr(alerts, "INTERVAL", 0.02)
    settings = dataclasses.replace(alerts.SETTINGS, hold={}, calm=0.1, group=0.05, per_hour=3600.0, burst=100)
    monkeypatch.setattr(alerts, "SETTINGS", settings)
    monkeypatch.setattr(alert_targets, "REPEATS", (0.05, 0.05))


def config(*targets: str, backends: list[FaultBackend], fallback: FaultBackend | None = None, policy: str = "") -> str:
    every = [*backends, *([fallback] if fallback is not None else [])]
    health = "{interval: 50ms, unhealthy_after: 1}"
    lines = "\n".join(f"  b{n}: {{url: '{each.url}', kind: vllm, health: {health}}}" for n, each in enumerate(every))
    names = ", ".join(f"b{number}" for number in range(len(backends)))
    second = f", fallback: [b{len(backends)}]" if fallback is not None else ""
    routes = f"routes: [{{model: tiny, backends: [{names}]{second}}}]"
    return (
        f"server: {{listen: '127.0.0.1:0'}}\nbackends:\n{lines}\n{routes}\n"
        f"alerts: {{targets: {list(targets)!r}}}\n{policy}\n"
    )


async def test_a_backend_that_goes_and_comes_back_is_told_both_times_without_secrets(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with Webhook() as webhook, FaultBackend() as one, FaultBackend() as two:
        async with running_gateway(config(webhook.target, backends=[one, two])) as gateway:
            await one.kill()
            message = await webhook.wait_for("backend b0 fails its health checks")
            assert message["title"].startswith("Seawall on ")
            assert message["type"] == "failure"
            assert "docs/runbooks.md#seawallbackenddown" in message["message"]
            await one.start()
            over = await webhook.wait_for("Over:\n")
            assert "backend b0 fails" in over["message"]
            metrics = (await gateway.get("/metrics")).body.decode()
            assert re.search(r'seawall_alert_messages_total\{result="sent"\} [1-9]', metrics)
        said = "".join(capfd.readouterr())
        assert "alert" in said
        assert SECRET not in said + repr(webhook.messages)


async def fail_all(gateway: RunningGateway, one: FaultBackend, two: FaultBackend) -> None:
    one.inject("engine_dead")
    two.inject("engine_dead")
    for _ in range(25):
        await gateway.chat()


async def fall_back(gateway: RunningGateway, one: FaultBackend, two: FaultBackend) -> None:
    one.inject("engine_dead")
    for _ in range(25):
        assert (await gateway.chat()).status == 200


async def kill_all(gateway: RunningGateway, one: FaultBackend, two: FaultBackend) -> None:
    await one.kill()
    await two.kill()


async def crash(gateway: RunningGateway, one: FaultBackend, two: FaultBackend) -> None:
    endpoint = gateway.gateway.runtime.endpoints["b0"]
    for _ in range(conditions.CRASHES):
        await one.kill()
        await until(lambda: not endpoint.healthy)
        await asyncio.sleep(3 * alerts.INTERVAL)  # two looks, at least one of which sees it
        await one.start()
        await until(lambda: endpoint.healthy)
        await asyncio.sleep(3 * alerts.INTERVAL)


async def degrade(gateway: RunningGateway, one: FaultBackend, two: FaultBackend) -> None:
    degradation = gateway.gateway.runtime.routes.routes[0].degradation
    assert degradation is not None
    degradation.update({"queue": 1.0}, time.monotonic())


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (fail_all, "the circuit of backend b0 is open"),
        (fail_all, "route tiny: 100% of its requests fail"),
        (fail_all, "in the last minute"),
        (fall_back, "of its requests go to a fallback"),
        (kill_all, "no backend is healthy"),
        (kill_all, "route tiny: none of its backends can be asked"),
        (crash, "backend b0 went down 3 times"),
        (degrade, "route tiny: requests are made smaller (minimal)"),
    ],
)
async def test_each_condition_reaches_the_webhook(happens: Any, said: str) -> None:
    breaker = "circuit_breaker: {consecutive_failures: 3, max_ejected: 1.0}"
    at_once = "retry: {attempts: 1}, admission: {max_wait: 0s}"
    policy = f"policies: {{default: {{{breaker}, {at_once}, degrade: {{signal: [queue]}}}}}}"
    async with Webhook() as webhook, FaultBackend() as one, FaultBackend() as two:
        text = config(webhook.target, backends=[one], fallback=two, policy=policy)
        async with running_gateway(text) as gateway:
            await until(lambda: bool(gateway.gateway.alerts._conditions._counts))
            await happens(gateway, one, two)
            await webhook.wait_for(said)


async def test_a_refused_reload_is_told_and_so_is_its_end(tmp_path: Path) -> None:
    async with Webhook() as webhook, FaultBackend() as backend:
        path = tmp_path / "gateway.yaml"
        good = config(webhook.target, backends=[backend])
        path.write_text("backends: {")
        async with running_gateway(good, path) as gateway:
            assert gateway.gateway.reload() is False
            await webhook.wait_for("the changed configuration is not valid")
            path.write_text(good)
            assert gateway.gateway.reload() is True
            await webhook.wait_for("Over:\n")


async def test_a_redis_that_goes_is_told_and_so_is_its_return() -> None:
    async with Webhook() as webhook, FaultBackend() as backend:
        with RedisServer() as redis:
            port = redis.port
            state = f"state: {{redis: '{redis.url}'}}"
            async with running_gateway(config(webhook.target, backends=[backend], policy=state)) as gateway:
                shared = gateway.gateway.metrics.state
                assert shared is not None
                await until(lambda: shared.up)
                redis.kill()
                await webhook.wait_for("Redis cannot be reached")
                assert (await gateway.chat()).status == 200
                with RedisServer(port):
                    assert "Redis cannot be reached" in (await webhook.wait_for("Over:\n"))["message"]


async def test_a_reload_changes_the_targets(tmp_path: Path) -> None:
    async with Webhook() as before, Webhook() as after, FaultBackend() as one, FaultBackend() as two:
        path = tmp_path / "gateway.yaml"
        path.write_text(config(after.target, backends=[one, two]))
        async with running_gateway(config(before.target, backends=[one, two]), path) as gateway:
            assert gateway.gateway.reload() is True
            await one.kill()
            await after.wait_for("b0 fails")
            assert before.messages == []


@pytest.mark.parametrize("broken", [{"status": 500}, {"delay": 30.0}])
async def test_a_target_that_fails_or_hangs_holds_up_neither_requests_nor_the_other_target(
    broken: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    async with Webhook(**broken) as bad, Webhook() as good, FaultBackend() as one, FaultBackend() as two:
        async with running_gateway(config(bad.target, good.target, backends=[one, two])) as gateway:
            await one.kill()
            await good.wait_for("b0 fails")
            began = time.monotonic()
            assert (await gateway.chat()).status == 200
            assert time.monotonic() - began < 2
            if "status" in broken:
                await until(lambda: gateway.gateway.alerts.counts["failed"] > 0)
                assert bad.asked >= 3
        assert SECRET not in "".join(capfd.readouterr())


async def test_without_targets_nobody_looks() -> None:
    async with FaultBackend() as backend, running_gateway(config(backends=[backend])) as gateway:
        assert gateway.gateway.alerts._task is None


async def test_the_test_command_says_which_target_took_it(tmp_path: Path) -> None:
    async with Webhook() as good, Webhook(status=500) as bad, FaultBackend() as backend:
        path = tmp_path / "gateway.yaml"
        for targets, status, said in (
            ([good.target], 0, ["1 (json): sent"]),
            (
                [good.target, bad.target, f"nonsense://{SECRET}"],
                1,
                ["1 (json): sent", "2 (json): not", "3 (nonsense)"],
            ),
            ([], 1, ["alerts.targets is empty"]),
        ):
            path.write_text(config(*targets, backends=[backend]))
            got, output = await asyncio.to_thread(command, path)
            assert got == status, output
            assert all(line in output for line in said), output
            assert SECRET not in output
        assert "nothing is wrong" in good.messages[0]["message"]


def command(path: Path) -> tuple[int, str]:
    with Process.python("-m", "gateway", "alerts", "test", "--config", str(path)) as process:
        status = process.wait(60)
        return status, process.output


def test_every_condition_has_a_runbook_and_a_time_to_hold() -> None:
    kinds = {value for name, value in vars(conditions).items() if name.isupper() and str(value).startswith("Seawall")}
    runbooks = (ROOT / "docs" / "runbooks.md").read_text("utf-8")
    assert len(kinds) >= 9
    assert kinds == conditions.HOLD.keys()
    assert kinds >= conditions.PAGES
    for kind in kinds:
        assert f"### {kind}\n" in runbooks


def test_a_flood_of_alerts_is_one_message_of_bounded_length() -> None:
    many = tuple(Alert(Condition(conditions.CIRCUIT_OPEN, str(n)), 0.0, f"circuit {n}") for n in range(256))
    title, body = alerts.words(Message(many, (), ()), 0.0, "host")
    assert title == "Seawall on host: 256 alerts"
    assert len(body.splitlines()) == alerts.MAX_LINES + 1
    assert body.endswith("... and 236 more")


async def test_targets_that_nothing_can_be_sent_to_are_an_error_at_the_start(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(alerts, "installed", lambda: False)
    async with FaultBackend() as one:
        for targets, said in (((), 0), (("json://127.0.0.1:1",), 1)):
            async with running_gateway(config(*targets, backends=[one])):
                pass
            assert capfd.readouterr().out.count("alerts_off") == said
