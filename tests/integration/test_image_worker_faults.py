"""The image worker's queue, and what it does when drawing fails: over a real socket, with a pipeline that obeys."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image

from backends.workers.diffusers.image_queue import ImageQueue
from backends.workers.diffusers.loading import Loaded
from backends.workers.diffusers.painter import Painter
from backends.workers.diffusers.protocol import SizeRules
from backends.workers.diffusers.server import ImageServer

PATH = "/v1/images/generations"
Client = TestClient[Any, Any]
CUDA_OOM = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.69 GiB of which 1.12 GiB is free."
)


class Obedient:
    """A pipeline that notes what it is asked, waits before each step while `gate` is clear, and fails as told."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.calls: list[dict[str, Any]] = []
        self.steps = 0
        self.fail: Callable[[list[str], int], Exception | None] = lambda _prompts, _width: None

    def __call__(self, prompts: list[str], *, width: int, height: int, num_inference_steps: int, **rest: Any) -> Any:
        self.calls.append({"prompts": prompts, "width": width, "height": height})
        for step in range(num_inference_steps):
            assert self.gate.wait(10)
            if error := self.fail(prompts, width):
                raise error
            self.steps += 1
            rest["callback_on_step_end"](self, step, None, {})
        return SimpleNamespace(images=[Image.new("RGB", (width, height)) for _ in prompts])


@asynccontextmanager
async def worker(pipeline: Obedient, *, timeout: float = 30, **queue: int) -> AsyncIterator[Client]:
    server = ImageServer(["shoal"], timeout=timeout)
    loaded = Loaded("shoal", Painter(pipeline, 8), SizeRules((64, 64), 8, 1 << 20, 100), 4)
    async with TestClient(TestServer(server.app())) as client, server.open(loaded, ImageQueue(loaded.painter, **queue)):
        try:
            yield client
        finally:
            pipeline.gate.set()


async def post(client: Client, prompt: str = "x", headers: dict[str, str] | None = None, **body: Any) -> Any:
    async with client.post(PATH, json={"prompt": prompt} | body, headers=headers) as answer:
        return answer.status, await answer.json()


async def until(condition: Callable[[], bool]) -> None:
    """Waits for it while the loop runs on. Raises TimeoutError after five seconds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - it changes on another thread
            await asyncio.sleep(0.002)


async def metric(client: Client, line: str) -> bool:
    async with client.get("/metrics") as answer:
        return line in (await answer.text()).splitlines()


async def test_like_requests_share_a_batch_and_unlike_ones_keep_their_order() -> None:
    pipeline = Obedient()
    async with worker(pipeline, max_batch=3) as client:
        pipeline.gate.clear()
        asks = [asyncio.create_task(post(client, "first"))]
        await until(lambda: len(pipeline.calls) == 1)
        for number, size in enumerate(["64x64", "96x96", "64x64", "64x64", "64x64"]):
            asks.append(asyncio.create_task(post(client, f"p{number}", size=size)))
            while not await metric(client, f"diffusers_requests_waiting {number + 1}.0"):
                pass
        pipeline.gate.set()
        answers = await asyncio.gather(*asks)
    assert [status for status, _ in answers] == [200] * 6
    assert [call["prompts"] for call in pipeline.calls] == [["first"], ["p0", "p2", "p3"], ["p1"], ["p4"]]


async def test_more_images_than_a_batch_holds_are_drawn_one_batch_after_the_other() -> None:
    pipeline = Obedient()
    async with worker(pipeline, max_batch=2) as client:
        status, answer = await post(client, n=5, seed=7)
    assert (status, [image["seed"] for image in answer["data"]]) == (200, [7, 8, 9, 10, 11])
    assert [len(call["prompts"]) for call in pipeline.calls] == [2, 2, 1]


async def test_a_full_queue_refuses_at_once() -> None:
    pipeline = Obedient()
    async with worker(pipeline, max_waiting=1) as client:
        pipeline.gate.clear()
        first = asyncio.create_task(post(client))
        await until(lambda: len(pipeline.calls) == 1)
        second = asyncio.create_task(post(client, size="96x96"))
        while not await metric(client, "diffusers_requests_waiting 1.0"):
            pass
        async with client.post(PATH, json={"prompt": "third"}) as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
            assert (await refused.json())["error"]["code"] == "model_overloaded"
        pipeline.gate.set()
        assert [(await first)[0], (await second)[0]] == [200, 200]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_its_drawing_after_the_step_that_runs(stream: bool) -> None:
    pipeline = Obedient()
    async with worker(pipeline) as client:
        pipeline.gate.clear()
        async with ClientSession() as session:
            body = {"prompt": "x", "steps": 90, "stream": stream}
            leaving = asyncio.create_task(session.post(client.make_url(PATH), json=body))
            await until(lambda: len(pipeline.calls) == 1)
            if stream:
                (await leaving).close()
            leaving.cancel()
        while not await metric(client, 'diffusers_requests_total{outcome="abandoned"} 1.0'):
            pass
        pipeline.gate.set()
        assert (await post(client, "next"))[0] == 200
        assert pipeline.steps == 1 + 4


async def test_one_who_leaves_the_queue_is_never_drawn() -> None:
    pipeline = Obedient()
    async with worker(pipeline) as client:
        pipeline.gate.clear()
        first = asyncio.create_task(post(client, "first"))
        await until(lambda: len(pipeline.calls) == 1)
        async with ClientSession() as session:
            leaving = asyncio.create_task(session.post(client.make_url(PATH), json={"prompt": "left"}))
            while not await metric(client, "diffusers_requests_waiting 1.0"):
                pass
            leaving.cancel()
        while not await metric(client, "diffusers_requests_waiting 0.0"):
            pass
        pipeline.gate.set()
        assert [(await first)[0], (await post(client, "last"))[0]] == [200, 200]
    assert [call["prompts"] for call in pipeline.calls] == [["first"], ["last"]]


@pytest.mark.parametrize("headers", [{}, {"X-Request-Timeout": "0.05"}])
async def test_a_request_ends_at_its_time_limit(headers: dict[str, str]) -> None:
    pipeline = Obedient()
    async with worker(pipeline, timeout=30 if headers else 0.05) as client:
        pipeline.gate.clear()
        status, answer = await post(client, headers=headers)
        assert (status, answer["error"]["code"]) == (504, "inference_timeout")
        assert "within 0.05 s" in answer["error"]["message"]


async def test_a_batch_too_large_for_memory_is_drawn_one_by_one() -> None:
    pipeline = Obedient()
    pipeline.fail = lambda prompts, _width: torch.OutOfMemoryError(CUDA_OOM) if len(prompts) > 1 else None
    async with worker(pipeline) as client:
        status, answer = await post(client, n=3)
    assert (status, len(answer["data"]), "warning" in answer) == (200, 3, False)
    assert [len(call["prompts"]) for call in pipeline.calls] == [3, 1, 1, 1]


async def test_an_image_too_large_for_memory_is_drawn_at_half_the_size_with_a_warning() -> None:
    pipeline = Obedient()
    pipeline.fail = lambda _prompts, width: torch.OutOfMemoryError(CUDA_OOM) if width > 500 else None
    async with worker(pipeline) as client:
        status, answer = await post(client, size="1000x504")
    assert (status, answer["size"]) == (200, "496x248")
    expected = "There was not enough memory for 1000x504 pixels; this image has 496x248."
    assert answer["warning"] == expected


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(CUDA_OOM),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
async def test_memory_that_is_not_there_at_all_is_said_with_figures(error: Exception) -> None:
    pipeline = Obedient()
    pipeline.fail = lambda _prompts, _width: error
    async with worker(pipeline) as client:
        status, answer = await post(client)
        assert (status, answer["error"]["code"]) == (507, "out_of_memory")
        assert answer["error"]["details"]["memory_used"] > 0
        assert answer["error"]["details"]["memory_available"] > 0
        pipeline.fail = lambda _prompts, _width: None
        assert (await post(client))[0] == 200  # it goes on


async def test_a_failing_pipeline_tells_no_internals_and_goes_on() -> None:
    pipeline = Obedient()
    pipeline.fail = lambda _prompts, _width: ValueError("/home/secret/unet.py: shapes differ")
    async with worker(pipeline) as client:
        status, answer = await post(client)
        assert (status, answer["error"]["code"]) == (500, "generation_failed")
        assert answer["error"]["message"] == "The pipeline failed (ValueError)."
        async with client.get("/health") as health:
            assert health.status == 200


async def test_a_lost_device_makes_the_worker_unhealthy_for_good() -> None:
    pipeline = Obedient()
    pipeline.fail = lambda _prompts, _width: RuntimeError("CUDA error: an illegal memory access was encountered")
    async with worker(pipeline) as client:
        assert (await post(client))[0] == 500
        async with client.get("/health") as health:
            assert health.status == 503
        assert (await post(client))[0] == 500
    assert len(pipeline.calls) == 1


async def test_an_error_in_a_stream_is_an_event() -> None:
    pipeline = Obedient()
    pipeline.fail = lambda _prompts, _width: ValueError("bad") if pipeline.steps == 2 else None
    async with worker(pipeline) as client, client.post(PATH, json={"prompt": "x", "stream": True}) as answer:
        events = [event.split("\n", 1)[0] for event in (await answer.text()).split("\n\n") if event]
    assert events == ["event: image_generation.progress"] * 2 + ["event: error"]
