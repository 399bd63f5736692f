"""GPUs in trouble: what workers say of them, and what the gateway makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from backends.workers.embedded.engine import Engine
from backends.workers.embedded.loading import Loaded, load
from backends.workers.embedded.server import TextServer
from backends.workers.gpu import Gpus, NvmlSource
from backends.workers.gpu_watch import GpuWatch
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.nvml import Driver, Nvml
from tests.support.processes import Process, free_port, wait_until
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load("tide-mini", "0")


@asynccontextmanager
async def worker(loaded: Loaded, nvml: Nvml) -> AsyncIterator[str]:
    """A text worker whose model is said to be on the device of `nvml`; each look is a new one."""
    moments = iter(range(0, 10**9, 10))
    watch = GpuWatch(Gpus(lambda: NvmlSource(nvml)), clock=lambda: float(next(moments)))
    server = TextServer(["tide-mini"], "0", gpus=watch)
    async with TestServer(server.app()) as http, server.open(loaded, Engine(loaded.model, loaded.tokenizer)):
        yield str(http.make_url("")).rstrip("/")


def config(*urls: str, policy: str = "") -> str:
    lines = "\n".join(
        f"  b{number}: {{url: '{url}', kind: embedded, health: {{interval: 100ms}}}}" for number, url in enumerate(urls)
    )
    names = ", ".join(f"b{number}" for number in range(len(urls)))
    return f"backends:\n{lines}\nroutes: [{{model: tide-mini, backends: [{names}]}}]\n{policy}"


async def answered_by(gateway: RunningGateway) -> str:
    body = {"model": "tide-mini", "prompt": "The sea", "max_tokens": 1}
    async with gateway.session.post(f"{gateway.url}/v1/completions", json=body) as answer:
        assert answer.status == 200, await answer.text()
        return answer.headers["X-Seawall-Backend"]


async def test_one_nearly_out_of_memory_is_asked_last_and_still_is(loaded: Loaded) -> None:
    full, well = Nvml(used=78), Nvml()
    async with worker(loaded, full) as a, worker(loaded, well) as b, running_gateway(config(a, b)) as gateway:
        first, second = gateway.gateway.runtime.endpoints.values()
        await eventually(lambda: first.strained and second.gpu_memory is not None)
        assert {await answered_by(gateway) for _ in range(8)} == {"b1"}
        assert (first.gpu_memory, second.gpu_memory) == (78 / 80, 5 / 80)
        well.used = 79
        await eventually(lambda: second.strained)
        assert {await answered_by(gateway) for _ in range(8)} == {"b0", "b1"}
        full.used = well.used = 5
        await eventually(lambda: not first.strained and not second.strained)


async def test_one_whose_gpu_failed_gets_no_requests_and_says_why(loaded: Loaded) -> None:
    broken = Nvml()
    async with worker(loaded, broken) as a, worker(loaded, Nvml()) as b, running_gateway(config(a, b)) as gateway:
        first, second = gateway.gateway.runtime.endpoints.values()
        await eventually(lambda: first.state == second.state == "healthy")
        broken.events = [79]
        await eventually(lambda: not first.healthy)
        assert first.message == "a GPU of its failed; its own /health says how"
        assert {await answered_by(gateway) for _ in range(4)} == {"b1"}
        async with gateway.session.get(f"{a}/health") as answer:
            assert answer.status == 503
            told = await answer.json()
        assert told["error"]["message"] == "GPU 0: Xid 79: the device failed; reset or replace it"
        assert told["gpus"][0]["healthy"] is False


async def test_full_gpus_of_the_workers_make_requests_smaller(loaded: Loaded) -> None:
    policy = "policies: {default: {degrade: {signal: [gpu], reduced: {above: 0.7, quality: 0.5}}}}"
    async with worker(loaded, Nvml(used=62)) as a, running_gateway(config(a, policy=policy)) as gateway:
        body = {"model": "tide-mini", "prompt": "The sea", "max_tokens": 8, "ignore_eos": True}

        async def level() -> str | None:
            async with gateway.session.post(f"{gateway.url}/v1/completions", json=body) as answer:
                used = (await answer.json())["usage"]["completion_tokens"]
                assert used == (4 if "X-Seawall-Degraded" in answer.headers else 8)
                return answer.headers.get("X-Seawall-Degraded")

        async with asyncio.timeout(10):
            while await level() != "reduced":
                pass


async def test_a_worker_without_gpus_says_so(loaded: Loaded) -> None:
    server = TextServer(["tide-mini"], "0")
    async with (
        TestServer(server.app()) as http,
        server.open(loaded, Engine(loaded.model, loaded.tokenizer)),
        aiohttp.ClientSession(str(http.make_url(""))) as session,
    ):
        async with session.get("/health") as answer:
            assert await answer.json() == {
                "status": "ok",
                "gpus": [],
                "gpu_message": "not used: the model is on the CPU",
            }
        async with session.get("/metrics") as answer:
            assert "seawall_gpu_devices 0.0" in await answer.text()


async def test_a_driver_that_hangs_does_not_hang_the_answers(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.workers.gpu_watch._TIMEOUT", 0.05)
    hangs = asyncio.Event()
    watch = GpuWatch(Gpus(lambda: NvmlSource(Nvml())))

    async def never() -> None:
        await hangs.wait()

    monkeypatch.setattr(watch, "_read", never)
    report = await watch.report()
    assert (report.failed, report.fault, report.trouble) == (True, None, "GPUs do not answer within 0.05 s")
    hangs.set()


def test_a_supervisor_tells_its_workers_devices_as_the_drivers_library_does(tmp_path: Path) -> None:
    """pynvml over a library in the driver's place: names, structures and events are NVIDIA's."""
    try:
        driver = Driver.build(tmp_path)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    port, told = free_port(), free_port()
    command = ("-m", "gateway", "worker", "embedded", "--model", "tide-mini")
    options = ("--port", str(port), "--status-port", str(told))
    with Process.python(*command, *options, env=driver.env) as process:
        process.wait_ready(f"http://127.0.0.1:{told}/health", 60)

        def get(path: str) -> tuple[int, Any]:
            return asyncio.run(fetched(f"http://127.0.0.1:{told}{path}"))

        _, text = get("/metrics")
        labels = '{gpu="0",name="NVIDIA H100 80GB HBM3"}'
        for sample in (
            "seawall_gpu_devices 1.0",
            f"seawall_gpu_memory_used_bytes{labels} {float(10 << 30)}",
            f"seawall_gpu_memory_total_bytes{labels} {float(100 << 30)}",
            f"seawall_gpu_utilisation_ratio{labels} 0.4",
            f"seawall_gpu_temperature_celsius{labels} 55.0",
            f"seawall_gpu_ecc_errors{labels} 0.0",
            f"seawall_gpu_xid{labels} 0.0",
            f"seawall_gpu_healthy{labels} 1.0",
            'seawall_worker_up{worker="tide-mini"} 1.0',
        ):
            assert sample in text.splitlines()
        driver.set(used=96)
        wait_until(lambda: f"seawall_gpu_healthy{labels} 0.0" in get("/metrics")[1], 20, "full memory")
        assert get("/health")[0] == 200
        driver.set(xid=31)  # the application's own
        wait_until(lambda: f"seawall_gpu_healthy{labels} 1.0" in get("/metrics")[1], 20, "a harmless Xid")
        driver.set(xid=79)
        wait_until(lambda: get("/health")[0] == 503, 20, "a fatal Xid")
        assert "Xid 79" in get("/status")[1]


async def fetched(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()
