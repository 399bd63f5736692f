"""A process that is held up for longer than its timeouts blames nobody for it; and what is nobody's fault otherwise."""

from __future__ import annotations

import asyncio
import time

import orjson
import pytest

from gateway.alarm import Alarm
from gateway.http.job import Job
from gateway.race import Race
from tests.integration.test_resilience import POLICY, stack
from tests.integration.test_stream_failover import text_of, until
from tests.support.counting_model import count_text
from tests.support.raw_http import talk

PAUSE = 0.6  # twice the timeouts of the policy


async def held_up(times: int, each: float = PAUSE) -> None:
    """Stops the whole process, as one that is starved of its core or on a machine that was suspended."""
    for _ in range(times):
        time.sleep(each)  # noqa: ASYNC251
        await asyncio.sleep(0.1)


async def test_a_stream_does_not_break_when_the_gateway_itself_stood_still() -> None:
    async with stack() as (gateway, backends):
        for backend in backends:
            backend.per_token = 0.02
        asked = asyncio.create_task(gateway.chat(stream=True, max_tokens=30))
        await until(lambda: any(seen.tokens_sent >= 3 for backend in backends for seen in backend.log))
        await held_up(3)
        answer = await asked
        assert text_of(answer) == count_text(1, 30)
        assert sum(len(list(backend.log.to("/v1/chat/completions"))) for backend in backends) == 1
        assert not any(backend.log.to("/v1/completions") for backend in backends)
        endpoints = (await gateway.get("/status")).json["endpoints"]
        assert {state["breaker"] for state in endpoints.values()} == {"closed"}


async def test_an_attempt_is_not_given_up_when_the_gateway_itself_stood_still() -> None:
    async with stack() as (gateway, backends):
        for backend in backends:
            backend.first_token = 0.1
        asked = asyncio.create_task(gateway.chat(stream=True))
        await until(lambda: any(len(backend.log) for backend in backends))
        await held_up(1)
        answer = await asked
        assert answer.headers["x-seawall-attempts"] == "1"
        assert text_of(answer) == count_text(1, 8)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_silent_backend_is_found_out_all_the_same(stream: bool) -> None:
    async with stack() as (gateway, (bad, _)):
        bad.inject("hang")
        asked = [asyncio.create_task(gateway.chat(stream=stream)) for _ in range(2)]
        await until(lambda: len(bad.log) > 0)
        await held_up(1)
        for answer in await asyncio.gather(*asked):
            assert answer.status == 200


async def test_a_race_whose_time_was_up_before_it_began_does_not_wait() -> None:
    loop, settled = asyncio.get_running_loop(), list[bool]()
    began = loop.time()

    async def wait() -> None:
        settled.append(await Race(Alarm(loop)).settles(began - 5.0))

    Job(wait(), loop).start()
    await until(lambda: bool(settled))
    assert settled == [False]
    assert loop.time() - began < 0.5


async def test_a_stream_that_outlasts_its_time_is_told_so_and_blames_nobody() -> None:
    policy = POLICY.replace("total: 5s", "total: 400ms").replace("consecutive_failures: 5", "consecutive_failures: 1")
    async with stack(primaries=1, policy=policy) as (gateway, (backend,)):
        backend.per_token = 0.05
        answer = await gateway.chat(stream=True, max_tokens=40)
        assert answer.error["error_type"] == "inference_timeout"
        assert count_text(1, 40).startswith(text_of(answer))
        assert (await gateway.get("/status")).json["endpoints"]["b0"]["breaker"] == "closed"


async def test_pipelined_requests_are_booked_with_their_own_bytes(capfd: pytest.CaptureFixture[str]) -> None:
    async with stack(primaries=1) as (gateway, _):
        body = orjson.dumps({"model": "tiny", "messages": [{"role": "user", "content": "count"}], "max_tokens": 8})
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        chat = head + b"content-length: %d\r\n\r\n" % len(body) + body
        models = b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        whole, listed = await talk(int(gateway.url.rpartition(":")[2]), chat + models)
    lines = [orjson.loads(line) for line in capfd.readouterr().out.splitlines() if '"event":"request"' in line]
    sizes = [(line["path"], line["bytes_out"]) for line in lines]
    assert sizes[:2] == [("/v1/models", len(listed.body)), ("/v1/chat/completions", len(whole.body))]
