"""`discover`: endpoints found by DNS and by the Kubernetes API come and go while requests run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import dns.asyncresolver
import pytest

from gateway.discovery import kubernetes
from gateway.discovery.addresses import MOST, Address, bounded
from tests.integration.test_operations import sample
from tests.support.counting_model import count_text
from tests.support.fault_backend import FaultBackend
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.kubernetes_api import KubernetesApi, slice_of
from tests.support.name_server import NameServer
from tests.support.waiting import eventually


def yaml(kind: str, host: str, port: int) -> str:
    return (
        f"backends: {{llama: {{url: 'http://{host}:{port}', kind: vllm, discover: {kind}, "
        "health: {interval: 100ms}}}\nroutes: [{model: tiny, backends: [llama]}]\n"
    )


def endpoints(gateway: RunningGateway) -> set[str]:
    return set(gateway.gateway.runtime.endpoints)


@asynccontextmanager
async def backends(count: int, **options: float) -> AsyncIterator[list[FaultBackend]]:
    """Servers on one port of several addresses of this machine."""
    first = FaultBackend(**options)  # type: ignore[arg-type]
    await first.start()
    others = [FaultBackend(host=f"127.0.0.{n}", port=first.port, **options) for n in range(2, count + 1)]  # type: ignore[arg-type]
    for other in others:
        await other.start()
    try:
        yield [first, *others]
    finally:
        for one in (first, *others):
            await one.kill()


async def test_dns_addresses_come_and_go_and_keep_their_state(monkeypatch: pytest.MonkeyPatch) -> None:
    async with backends(3) as servers, NameServer("llama.test", ["127.0.0.1", "127.0.0.2"]) as names:
        monkeypatch.setattr(dns.asyncresolver, "default_resolver", names.resolver())
        port = servers[0].port
        async with running_gateway(yaml("dns", "llama.test", port)) as gateway:
            assert endpoints(gateway) == {f"llama/127.0.0.1:{port}", f"llama/127.0.0.2:{port}"}
            answered = {(await gateway.chat()).headers["x-seawall-backend"] for _ in range(20)}
            assert answered == endpoints(gateway)
            kept = gateway.gateway.runtime.endpoints[f"llama/127.0.0.2:{port}"]
            names.addresses = ["127.0.0.2", "127.0.0.3"]
            await eventually(lambda: f"llama/127.0.0.3:{port}" in endpoints(gateway))
            assert endpoints(gateway) == {f"llama/127.0.0.2:{port}", f"llama/127.0.0.3:{port}"}
            assert gateway.gateway.runtime.endpoints[f"llama/127.0.0.2:{port}"] is kept
            text = (await gateway.get("/metrics")).body.decode()
            assert sample(text, "seawall_discovered_endpoints", backend="llama") == 2
            assert f"127.0.0.1:{port}" not in text


async def test_a_name_server_that_fails_takes_no_backend_away(monkeypatch: pytest.MonkeyPatch) -> None:
    async with backends(1) as servers, NameServer("llama.test", ["127.0.0.1"]) as names:
        monkeypatch.setattr(dns.asyncresolver, "default_resolver", names.resolver())
        async with running_gateway(yaml("dns", "llama.test", servers[0].port)) as gateway:
            for addresses in (None, []):
                names.addresses = addresses
                asked = names.asked
                await eventually(lambda: names.asked > asked + 2)  # noqa: B023
                assert (await gateway.chat()).status == 200


async def test_without_an_address_it_is_not_ready_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with backends(1) as servers, NameServer("llama.test", []) as names:
        monkeypatch.setattr(dns.asyncresolver, "default_resolver", names.resolver())
        text = yaml("dns", "llama.test", servers[0].port) + "policies: {default: {admission: {max_wait: 10ms}}}\n"
        async with running_gateway(text) as gateway:
            answer = await gateway.chat()
            assert (answer.status, answer.error["error_type"]) == (503, "model_overloaded")
            assert (await gateway.get("/readyz")).status == 503
            names.addresses = ["127.0.0.1"]
            await eventually(lambda: endpoints(gateway))
            assert (await gateway.chat()).status == 200


async def test_a_stream_on_an_address_that_vanishes_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    async with backends(2, per_token=0.1) as servers, NameServer("llama.test", ["127.0.0.1"]) as names:
        monkeypatch.setattr(dns.asyncresolver, "default_resolver", names.resolver())
        port = servers[0].port
        async with running_gateway(yaml("dns", "llama.test", port)) as gateway:
            running = asyncio.create_task(gateway.chat(stream=True, max_tokens=30))
            await servers[0].log.wait_for_state("running")
            names.addresses = ["127.0.0.2"]
            await eventually(lambda: endpoints(gateway) == {f"llama/127.0.0.2:{port}"})
            answer = await running
            assert answer.streamed == count_text(1, 30)
            assert answer.frames[-1] == "[DONE]"
            assert answer.headers["x-seawall-backend"] == f"llama/127.0.0.1:{port}"


async def test_kubernetes_slices_are_watched_and_gone_on_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with backends(3) as servers, KubernetesApi(tmp_path) as api:
        monkeypatch.setattr(kubernetes, "SERVICE_ACCOUNT", api.account)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
        port = servers[0].port

        def named(*numbers: int) -> set[str]:
            return {f"llama/127.0.0.{number}:{port}" for number in numbers}

        await api.put(slice_of("llama-1", "127.0.0.1", port=port))
        async with running_gateway(yaml("kubernetes", "llama.models.svc", 80)) as gateway:
            assert endpoints(gateway) == named(1)
            assert (await gateway.chat()).status == 200
            await api.put(slice_of("llama-2", "127.0.0.2", port=port))
            await eventually(lambda: endpoints(gateway) == named(1, 2))
            await api.put(slice_of("llama-1", "127.0.0.1", port=port, ready=False))  # it terminates
            await eventually(lambda: endpoints(gateway) == named(2))
            await api.put(slice_of("llama-1", "127.0.0.1", port=port, ready=None))
            await eventually(lambda: endpoints(gateway) == named(1, 2))
            await api.cut()
            lists = sum("watch" not in one for one in api.requests)
            await api.put(slice_of("llama-3", "127.0.0.3", port=port))
            await eventually(lambda: endpoints(gateway) == named(1, 2, 3))
            assert sum("watch" not in one for one in api.requests) == lists  # gone on, not listed anew
            await api.delete("llama-2")
            await eventually(lambda: endpoints(gateway) == named(1, 3))
            await api.cut(forget=True)
            await api.put(slice_of("llama-2", "127.0.0.2", port=port))
            await eventually(lambda: endpoints(gateway) == named(1, 2, 3))
            assert sum("watch" not in one for one in api.requests) > lists  # 410: listed anew
            await api.stop()
            assert (await gateway.chat()).status == 200  # the control plane is away, the backends are not
            await api.start()
            await api.delete("llama-3")
            await eventually(lambda: endpoints(gateway) == named(1, 2))


async def test_an_api_that_ends_each_watch_at_once_is_asked_less_and_less(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with KubernetesApi(tmp_path) as api:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
        api.hasty = True
        pauses: list[float] = []
        enough = asyncio.Event()

        async def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 4:
                enough.set()
                await asyncio.Event().wait()

        monkeypatch.setattr(kubernetes, "pause", pause)
        source = kubernetes.KubernetesSource("llama.models", 80, api.account)
        running = asyncio.create_task(source.run(lambda found: None, lambda reason: None))
        async with asyncio.timeout(10):
            await enough.wait()
        running.cancel()
        assert pauses == [0.5, 1.0, 2.0, 4.0]
        assert sum("watch" in one for one in api.requests) == 4


@pytest.mark.parametrize(
    ("wanted", "ports", "found"),
    [
        (8000, [("http", 8000), ("metrics", 9)], 8000),
        (80, [("http", 8000), ("metrics", 9)], 8000),
        (80, [("web", 8000)], 8000),
        (80, [(None, 8000)], 8000),
        (80, [("web", 8000), ("metrics", 9)], None),
        (80, [], None),
    ],
)
def test_the_port_of_an_endpoint(wanted: int, ports: list[tuple[str | None, int]], found: int | None) -> None:
    source = kubernetes.KubernetesSource("llama.models", wanted)
    assert source._port_of([{"name": name, "port": port} for name, port in ports]) == found


def test_addresses_are_bounded_and_in_order() -> None:
    many = [Address(f"10.0.{n // 250}.{n % 250}", 80) for n in range(1000)]
    assert len(bounded(many + many)) == MOST
    assert str(Address("::1", 80)) == "[::1]:80"
