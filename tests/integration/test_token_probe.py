"""The one-token probe tells a hung engine from a busy one, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from backends.workers.supervisor_probes import ProbeFailedError
from backends.workers.token_probe import TokenProbe
from tests.support.fault_backend import FaultBackend
from tests.support.faults import fault

QUICK = 0.3


@pytest.fixture
async def backend() -> AsyncIterator[FaultBackend]:
    async with FaultBackend() as running:
        yield running


async def test_a_working_engine_passes(backend: FaultBackend) -> None:
    await TokenProbe(backend.url, QUICK)()


async def test_an_idle_engine_that_gives_no_token_is_hung(backend: FaultBackend) -> None:
    backend.inject(fault("hang"))
    with pytest.raises(ProbeFailedError, match=r"no token within 0\.3 s, and none of any other request"):
        await TokenProbe(backend.url, QUICK)()


async def test_an_engine_whose_other_requests_stand_still_is_hung(backend: FaultBackend) -> None:
    backend.inject(fault("hang", path="/v1/c*", after=3), fault("hang", path="/v1/completions"))
    async with aiohttp.ClientSession() as session:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "count"}], "max_tokens": 50, "stream": True}
        async with session.post(f"{backend.url}/v1/chat/completions", json=body) as stream:
            await stream.content.readany()
            with pytest.raises(ProbeFailedError, match=r"(1|2) requests running"):
                await TokenProbe(backend.url, QUICK)()


async def test_a_full_engine_whose_tokens_come_is_busy_not_hung(backend: FaultBackend) -> None:
    backend.set_concurrency(1)
    backend.per_token = 0.02
    body = {"model": "tiny", "messages": [{"role": "user", "content": "count"}], "max_tokens": 400, "stream": True}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{backend.url}/v1/chat/completions", json=body) as stream,
    ):
        await stream.content.readany()
        started = asyncio.get_running_loop().time()
        await TokenProbe(backend.url, QUICK)()  # its own token waits behind the long answer
        assert asyncio.get_running_loop().time() - started >= QUICK


async def test_a_sleeping_engine_is_not_asked(backend: FaultBackend) -> None:
    backend.inject(
        fault("empty_200", path="/metrics", body=b'vllm:engine_sleep_state{engine="0",sleep_state="awake"} 0.0\n'),
        fault("engine_dead"),
    )
    await TokenProbe(backend.url, QUICK)()
    assert [seen.path for seen in backend.log] == ["/metrics"]


@pytest.mark.parametrize("name", ["overloaded", "context_length", "model_not_found", "rate_limited", "loading"])
async def test_an_answer_that_is_no_token_shows_that_it_lives(backend: FaultBackend, name: str) -> None:
    backend.inject(fault(name, path="/v1/completions"))
    await TokenProbe(backend.url, QUICK)()


@pytest.mark.parametrize(("name", "said"), [("engine_dead", "answered 500"), ("kill", "the connection broke")])
async def test_an_engine_that_fails_is_told(backend: FaultBackend, name: str, said: str) -> None:
    backend.inject(fault(name))
    with pytest.raises(ProbeFailedError, match=said):
        await TokenProbe(backend.url, QUICK)()


async def test_the_key_goes_along_and_does_not_show(backend: FaultBackend) -> None:
    probe = TokenProbe(backend.url, QUICK, "sk-secret")
    await probe()
    assert {seen.headers["authorization"] for seen in backend.log} == {"Bearer sk-secret"}
    assert "secret" not in repr(probe)
