"""The signals of graceful degradation."""

from __future__ import annotations

import random

import pytest

from gateway.config import load_text
from gateway.health.pressure import pressures
from gateway.health.resources import Disk, Gpu, Memory, Resources
from gateway.runtime import Runtime, build

DISK = Disk(1, 2)


def runtime(kind: str) -> Runtime:
    text = f"""
backends:
  a: {{url: "http://127.0.0.1:9", kind: {kind}}}
  b: {{url: "http://127.0.0.1:8", kind: {kind}}}
routes: [{{model: m, backends: [a, b]}}]
"""
    return build(load_text(text), None, random.Random(0))


async def test_of_the_servers_the_usable_ones_count_on_average() -> None:
    built = runtime("vllm")
    a, b = built.endpoints.values()
    a.kv_cache, b.kv_cache = 0.9, 0.5
    a.waiting, a.in_flight = 9.0, 12
    found = pressures(built.routes.routes[0], None)
    assert found == {"kv_cache": pytest.approx(0.7), "queue": pytest.approx(0.375)}
    b.healthy = False
    assert pressures(built.routes.routes[0], None)["kv_cache"] == pytest.approx(0.9)
    a.healthy = False
    assert pressures(built.routes.routes[0], None) == {"queue": 0.0}


@pytest.mark.parametrize(("kind", "gpu"), [("diffusers", 0.75), ("vllm", None)])
async def test_a_gpus_memory_counts_unless_the_server_reserves_it(kind: str, gpu: float | None) -> None:
    gpus = (Gpu(0, "x", 30, 40, 0.1), Gpu(1, "y", 10, 40, 0.9))
    found = pressures(runtime(kind).routes.routes[0], Resources(0.3, Memory(6, 10), DISK, gpus))
    assert found.get("gpu") == gpu
    assert (found["cpu"], found["memory"]) == (0.3, 0.6)


async def test_a_gpu_that_does_not_tell_its_memory_is_no_pressure() -> None:
    gpus = (Gpu(0, "x", 0, 0, 0.1),)
    found = pressures(runtime("diffusers").routes.routes[0], Resources(0.3, Memory(6, 10), DISK, gpus))
    assert found["gpu"] == 0.0
