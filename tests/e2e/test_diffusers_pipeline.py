"""A real Stable Diffusion pipeline, supervised and behind the gateway: clients that leave, no memory, kill -9."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from PIL import Image, ImageChops

from tests.integration.test_operations import sample
from tests.support.diffusion_models import save_stable_diffusion
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.hf_models import install
from tests.support.processes import Process, free_port

pytestmark = pytest.mark.slow
PATH = "/v1/images/generations"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = install()
    if str(home) not in sys.path:
        sys.path.append(str(home))
    folder = tmp_path_factory.mktemp("models") / "tiny-sd"
    save_stable_diffusion(folder)
    return folder


@dataclass
class Stack:
    """The worker's own url, its supervisor's, and the gateway before it."""

    url: str
    told: str
    gateway: RunningGateway

    async def draw(self, **more: Any) -> tuple[int, dict[str, Any]]:
        body = {"model": "tiny-sd", "prompt": "a crab", "num_inference_steps": 2, "seed": 3} | more
        async with self.gateway.session.post(f"{self.gateway.url}{PATH}", json=body) as answer:
            return answer.status, await answer.json()

    async def metrics(self) -> str:
        async with self.gateway.session.get(f"{self.url}/metrics") as answer:
            return await answer.text()

    async def figure(self, name: str, **labels: str) -> float:
        return sample(await self.metrics(), name, **labels)

    async def worker(self) -> dict[str, Any]:
        async with self.gateway.session.get(f"{self.told}/status") as answer:
            one: dict[str, Any] = (await answer.json())["workers"][0]
            return one


@pytest.fixture
async def stack(pipeline: Path) -> AsyncIterator[Stack]:
    port, told = free_port(), free_port()
    command = ["-m", "gateway", "worker", "diffusers", "--pipeline", str(pipeline)]
    ports = ["--port", str(port), "--status-port", str(told)]
    with Process.python(*command, *ports, env={"PYTHONPATH": f"{install()}:."}) as process:
        url = f"http://127.0.0.1:{port}"
        await asyncio.to_thread(process.wait_ready, f"{url}/health", 120)
        config = (
            f"backends: {{a: {{url: '{url}', kind: diffusers, health: {{interval: 500ms}}}}}}\n"
            "routes: [{model: tiny-sd, backends: [a], policy: images}]\n"
            "policies: {images: {timeout: {first_token: 2m, total: 5m}, oom: {attempts: 0}}}\n"
        )
        async with running_gateway(config) as gateway:
            yield Stack(url, f"http://127.0.0.1:{told}", gateway)


def picture(entry: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(entry["b64_json"])))


async def test_it_draws_by_seed_and_edits(stack: Stack) -> None:
    status, first = await stack.draw(n=2)
    assert status == 200
    assert [picture(entry).size for entry in first["data"]] == [(64, 64)] * 2
    again, other = (await stack.draw(n=2))[1], (await stack.draw(seed=4))[1]
    assert [e["b64_json"] for e in again["data"]] == [e["b64_json"] for e in first["data"]]
    alone, second = (
        picture(other["data"][0]),
        picture(first["data"][1]),
    )  # the images of one request have the next seeds
    apart = ImageChops.difference(alone, second).getextrema()
    assert max(most for _, most in apart) <= 2  # a batch of another size rounds otherwise
    form = aiohttp.FormData({"model": "tiny-sd", "prompt": "a crab", "num_inference_steps": "4", "seed": "1"})
    form.add_field("image", base64.b64decode(first["data"][0]["b64_json"]), filename="a.png", content_type="image/png")
    async with stack.gateway.session.post(f"{stack.gateway.url}/v1/images/edits", data=form) as answer:
        assert answer.status == 200, await answer.text()


async def test_a_client_that_leaves_stops_the_drawing_at_a_step(stack: Stack) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(3):
            await stack.draw(num_inference_steps=100, size="512x512")
    async with asyncio.timeout(30):
        while 'outcome="abandoned"' not in await stack.metrics():
            pass
        while await stack.figure("diffusers_requests_running") > 0:
            pass
    assert await stack.figure("diffusers_steps") < 100
    assert (await stack.draw())[0] == 200


async def test_an_allocation_that_fails_is_survived(stack: Stack) -> None:
    """The process's address space is limited: torch's own allocator fails."""
    pid = (await stack.worker())["pid"]
    await stack.draw(size="256x256")  # all threads are there now: only what is drawn needs more
    taken = psutil.Process(pid).memory_info().vms
    _, most = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (taken + (56 << 20), most))
    status, told = await stack.draw(size="1024x1024")
    resource.prlimit(pid, resource.RLIMIT_AS, (most, most))
    if status == 200:
        assert "not enough memory for 1024x1024" in told["warning"]
    else:
        assert (status, told["error"]["error_type"]) == (507, "out_of_memory")
        assert told["error"]["details"]["attempts"][0]["error_type"] == "out_of_memory"
    assert (await stack.draw())[0] == 200
    worker = await stack.worker()
    assert (worker["pid"], worker["restarts"], worker["state"]) == (pid, 0, "ready")


async def test_one_that_is_killed_comes_back(stack: Stack) -> None:
    os.kill((await stack.worker())["pid"], signal.SIGKILL)
    async with asyncio.timeout(120):
        while (await stack.worker())["restarts"] < 1 or (await stack.worker())["state"] != "ready":
            pass
        while (await stack.draw())[0] != 200:
            pass
