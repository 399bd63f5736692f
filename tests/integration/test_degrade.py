"""Requests made smaller, after out of memory and under pressure, over real sockets."""

from __future__ import annotations

import base64
from time import monotonic
from typing import Any

import orjson

from policies.degrade import Level
from tests.integration.test_admission import until
from tests.integration.test_resilience import POLICY, stack
from tests.support.counting_model import count_text
from tests.support.fault_backend import FaultBackend
from tests.support.faults import fault
from tests.support.gateway import RunningGateway

OOM = POLICY + "    oom: {shrink: 0.5, attempts: 1}\n"
DEGRADE = POLICY + "    degrade: {signal: [kv_cache], reduced: {above: 0.6, quality: 0.5}}\n"


def bodies(backend: FaultBackend, path: str = "/v1/chat/completions") -> list[dict[str, Any]]:
    return [orjson.loads(seen.body) for seen in backend.log.to(path)]


async def test_after_out_of_memory_the_same_endpoint_is_asked_once_for_less_and_the_answer_says_so() -> None:
    for stream in (False, True):
        async with stack(primaries=1, policy=OOM) as (gateway, (backend,)):
            backend.inject(fault("oom", times=1))
            answer = await gateway.chat(stream=stream, n=1)
            assert answer.status == 200
            assert (answer.streamed if stream else answer.text) == count_text(1, 4)
            assert answer.headers["x-seawall-warning"] == "Made smaller after out of memory: max_tokens 8 -> 4."
            assert [body["max_tokens"] for body in bodies(backend)] == [8, 4]
            assert gateway.gateway.metrics.route("tiny").reduced["out_of_memory"] == 1
            trail = (await gateway.get(f"/requests/{answer.headers['x-correlation-id']}")).json["attempts"]
            assert [(each["why"], each["outcome"]) for each in trail] == [
                ("primary", "out_of_memory"),
                ("shrunk", "ok"),
            ]


async def test_the_native_answer_carries_the_warning() -> None:
    async with stack(primaries=1, policy=OOM) as (gateway, (backend,)):
        backend.inject(fault("oom", times=1))
        answer = await gateway.post("/generate", {"model": "tiny", "prompt": "count", "max_tokens": 8})
        assert answer.status == 200
        assert answer.json["warning"] == "Made smaller after out of memory: max_tokens 8 -> 4."


async def test_when_less_does_not_help_another_endpoint_gets_the_whole_request() -> None:
    async with stack(policy=OOM) as (gateway, (bad, good)):
        bad.inject("oom")
        answers = [await gateway.chat() for _ in range(2)]
        assert [answer.text for answer in answers] == [count_text(1, 8)] * 2
        assert "x-seawall-warning" not in answers[0].headers
        assert [body["max_tokens"] for body in bodies(bad)] == [8, 4]
        assert {body["max_tokens"] for body in bodies(good)} == {8}


async def test_a_request_without_amounts_goes_elsewhere_at_once() -> None:
    async with stack(policy=OOM) as (gateway, (bad, _)):
        bad.inject("oom")
        for _ in range(2):
            assert (await gateway.post("/v1/completions", {"model": "tiny", "prompt": "count"})).status == 200
        assert len(bodies(bad, "/v1/completions")) == 1


async def test_a_server_that_refuses_the_smaller_request_says_nothing_against_the_clients() -> None:
    async with stack(primaries=1, policy=OOM) as (gateway, (backend,)):
        backend.inject(fault("oom", times=1), fault("context_length", times=2))
        answer = await gateway.chat()
        assert answer.error["error_type"] == "out_of_memory"
        assert answer.status == 507


async def test_images_shrink_to_sizes_that_the_server_takes() -> None:
    picture = base64.b64encode(b"png").decode()
    async with stack(primaries=1, policy=OOM) as (gateway, (backend,)):
        oom = fault("oom", times=1, path="/v1/images/*")
        good = fault("respond", body=orjson.dumps({"data": [{"b64_json": picture}]}), path="/v1/images/*")
        backend.inject(oom, good)
        wanted = {"model": "tiny", "prompt": "a wave", "width": 1024, "height": 768, "steps": 30}
        answer = await gateway.post("/generate_image", wanted)
        asked = bodies(backend, "/v1/images/generations")
        assert [(body["size"], body["num_inference_steps"]) for body in asked] == [("1024x768", 30), ("704x512", 15)]
        assert "size 1024x768 -> 704x512" in answer.json["warning"]


async def pressed(gateway: RunningGateway, backend: FaultBackend, share: float) -> None:
    """Until the gateway has scraped that the KV cache is full to this share."""
    backend.gauges["kv_cache_usage_perc"] = share
    endpoint = next(iter(gateway.gateway.runtime.endpoints.values()))
    await until(lambda: endpoint.kv_cache == share)
    gateway.gateway.monitor.weigh(monotonic())


async def test_under_pressure_requests_are_made_smaller_by_level_and_say_so() -> None:
    async with stack(primaries=1, policy=DEGRADE) as (gateway, (backend,)):
        full = await gateway.chat()
        assert full.text == count_text(1, 8)
        assert "x-seawall-degraded" not in full.headers
        for share, level, tokens in ((0.7, "reduced", 4), (0.95, "minimal", 3)):
            await pressed(gateway, backend, share)
            answer = await gateway.chat()
            assert answer.headers["x-seawall-degraded"] == level
            assert answer.text == count_text(1, tokens)
            native = await gateway.post("/generate", {"model": "tiny", "prompt": "count", "max_tokens": 8})
            assert native.json["degradation_level"] == level
            assert native.headers["x-seawall-degraded"] == level
        assert (await gateway.get("/status")).json["routes"][0]["degradation_level"] == "minimal"
        assert b'seawall_degradation_level{route="tiny"} 2' in (await gateway.get("/metrics")).body
        nothing_to_reduce = await gateway.post("/v1/completions", {"model": "tiny", "prompt": "count"})
        assert "x-seawall-degraded" not in nothing_to_reduce.headers


async def test_pressure_that_goes_is_followed_one_level_at_a_time() -> None:
    async with stack(primaries=1, policy=DEGRADE) as (gateway, (backend,)):
        await pressed(gateway, backend, 0.95)
        await pressed(gateway, backend, 0.0)
        degradation = gateway.gateway.runtime.routes.routes[0].degradation
        assert degradation is not None
        assert degradation.level is Level.MINIMAL
        gateway.gateway.monitor.weigh(monotonic() + 11)
        assert degradation.level is Level.REDUCED
        gateway.gateway.monitor.weigh(monotonic() + 22)
        assert degradation.level is Level.FULL


async def test_running_out_of_memory_reduces_the_requests_that_follow() -> None:
    async with stack(primaries=1, policy=DEGRADE) as (gateway, (backend,)):
        backend.inject(fault("oom", times=1))
        await gateway.chat()
        answer = await gateway.chat()
        assert answer.headers["x-seawall-degraded"] == "reduced"
        assert answer.text == count_text(1, 4)


async def test_nothing_is_reduced_unless_the_policy_says_so() -> None:
    async with stack(primaries=1) as (gateway, (backend,)):
        await pressed(gateway, backend, 0.99)
        assert (await gateway.chat()).text == count_text(1, 8)
