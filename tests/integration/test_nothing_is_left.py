"""Clients that leave at any moment, faults at any place, reloads and ejections in between: nothing may be left of it.

Which client does what is drawn from a seed; every answer that comes is the right one or a typed error.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import replace

import aiohttp
import orjson
import pytest

from gateway.endpoint import Endpoint, Service
from gateway.runtime import Route
from tests.integration.test_resilience import stack
from tests.support.counting_model import count_text
from tests.support.fault_backend import FaultBackend
from tests.support.faults import Fault, fault
from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually

POLICY = """
policies:
  default:
    balance: p2c
    timeout: {connect: 200ms, first_token: 60ms, idle: 80ms, total: 2s}
    retry: {attempts: 4, backoff: {initial: 1ms, max: 20ms}, budget: {ratio: 1, min_per_second: 50}}
    circuit_breaker: {consecutive_failures: 4, open_for: 50ms, max_open_for: 100ms, half_open_probes: 2}
    hedge: {after: 20ms, max: 2, budget: 1}
    concurrency: {mode: fixed, limit: 3}
    admission: {max_queue: 8, max_wait: 300ms}
    stream: {resume: true, max_resumes: 2, keepalive: 20ms}
"""
TOKENS = 12
CLIENTS = 48
_FAULTS = (
    *("kill", "rst_before_head", "rst_after_head", "rst_mid_stream", "stale_connection", "silent_cut", "no_done"),
    *("engine_death", "malformed_frame", "bad_chunk", "half_json", "oom", "loading", "overloaded", "internal_error"),
)


def draw_faults(rng: random.Random) -> list[Fault]:
    """A few faults, each of which strikes some of the requests."""
    faults = [fault(name, probability=0.3) for name in rng.sample(_FAULTS, 3)]
    faults = [replace(each, after=rng.randrange(1, 8)) if each.after == 10 else each for each in faults]
    place = rng.choice(["request", "head", 1, 4, "finish"])
    return [*faults, fault("hang", after=place, seconds=rng.choice([0.03, 0.12, 0.4]), probability=0.15)]


def is_right(body: bytes, *, streamed: bool) -> bool:
    """Whether an answer is the whole one, or ends behind a part of it in an error of a backend."""
    if b'"internal_error"' in body:
        return False
    whole = count_text(1, TOKENS)
    if not streamed:
        document = orjson.loads(body)
        return "error" in document or document["choices"][0]["message"]["content"] in (
            whole,
            count_text(1, TOKENS // 2),
        )
    frames = [frame[6:] for frame in body.split(b"\n\n") if frame.startswith(b"data: ")]
    documents = [orjson.loads(frame) for frame in frames if frame != b"[DONE]"]
    failed = "error" in documents[-1]
    text = "".join(c["delta"].get("content") or "" for d in documents for c in d.get("choices", ()))
    if failed:
        return frames[-1] != b"[DONE]" and whole.startswith(text)
    return frames[-1] == b"[DONE]" and text in (whole, count_text(1, TOKENS // 2))


async def client(url: str, session: aiohttp.ClientSession, rng: random.Random, wrong: list[bytes]) -> None:
    """One request, left at a random moment or read to its end."""
    await asyncio.sleep(rng.random() * 0.4)
    streamed = rng.random() < 0.6
    body = {"model": "tiny", "messages": [{"role": "user", "content": "count"}], "max_tokens": TOKENS}
    headers = {"x-request-timeout": str(rng.choice([0.05, 0.2, 1.0]))} if rng.random() < 0.3 else {}
    patience = rng.random() * 0.3 if rng.random() < 0.4 else 10.0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
            async with session.post(url, json=body | {"stream": streamed}, headers=headers) as response:
                answer = await response.read()
                is_stream = response.headers["content-type"].startswith("text/event-stream")
                if not is_right(answer, streamed=is_stream):
                    wrong.append(answer)


async def disturb(gateway: RunningGateway, backends: list[FaultBackend], rng: random.Random, known: Known) -> None:
    """What goes on around the requests: other faults, an operator's acts, reloads that replace endpoints and rooms."""
    served = gateway.gateway
    for _ in range(8):
        await asyncio.sleep(rng.random() * 0.1)
        for backend in backends:
            backend.inject(*draw_faults(rng))
        endpoint = rng.choice(list(served.runtime.endpoints.values()))
        endpoint.set_service(rng.choice(list(Service)), served.loop.time())
        config = served.runtime.config.model_copy(deep=True)
        policy = config.policies["default"]
        if rng.random() < 0.3:
            changed = policy.admission.model_copy(update={"max_queue": rng.choice([4, 8])})
            config.policies["default"] = policy.model_copy(update={"admission": changed})
        elif rng.random() < 0.3:
            changed = policy.concurrency.model_copy(update={"limit": rng.choice([2, 3])})
            config.policies["default"] = policy.model_copy(update={"concurrency": changed})
        served.take(config)
        known.note(gateway)
    for endpoint in served.runtime.endpoints.values():
        endpoint.set_service(Service.ACTIVE, served.loop.time())


class Known:
    """Every endpoint and route that there has been."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.endpoints: set[Endpoint] = set()
        self.routes: set[Route] = set()
        self.note(gateway)

    def note(self, gateway: RunningGateway) -> None:
        runtime = gateway.gateway.runtime
        self.endpoints.update(runtime.endpoints.values())
        self.routes.update(runtime.routes.routes)

    def left(self, now: float) -> list[str]:
        """What is still held, in words."""
        found = []
        for endpoint in self.endpoints:
            permits = endpoint.breaker._permits
            idle = len(endpoint.pool._idle)
            held = {"in_flight": endpoint.in_flight, "rooms": len(endpoint.waiting_rooms), "permits": len(permits)}
            held["connections"] = endpoint.pool.open - idle
            found += [f"{endpoint.name}: {name} {number}" for name, number in held.items() if number]
        for route in self.routes:
            room = route.room
            if len(room) or room._called or room._timer is not None:
                found.append(f"room: {len(room)} wait, {room._called} called, timer {room._timer}")
        return found


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_nothing_is_left_and_no_answer_is_wrong(seed: int) -> None:
    rng = random.Random(seed)
    async with stack(primaries=2, fallback=True, policy=POLICY) as (gateway, backends):
        for backend in backends:
            backend.per_token = 0.002
        known, wrong = Known(gateway), list[bytes]()
        url = gateway.url + "/v1/chat/completions"
        # A stream that ends in an error closes its connection: each request has its own.
        connector = aiohttp.TCPConnector(force_close=True)
        async with asyncio.timeout(30.0), aiohttp.ClientSession(connector=connector) as session:
            clients = [client(url, session, random.Random(rng.random()), wrong) for _ in range(CLIENTS)]
            await asyncio.gather(disturb(gateway, backends, rng, known), *clients)
        assert wrong == []
        for backend in backends:
            backend.heal()
        now = asyncio.get_running_loop().time
        with contextlib.suppress(TimeoutError):
            await eventually(lambda: not known.left(now()), timeout=3.0)
        assert known.left(now()) == []
        services = gateway.gateway.services
        assert services.in_flight == 0
        assert services.metrics.route("tiny").in_flight == 0
        for backend in backends:
            await eventually(lambda backend=backend: all(seen.state != "running" for seen in backend.log))
        assert (await gateway.chat()).status == 200
