"""A model that sleeps gets no requests, and gets them again when it is awake."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from backends.workers.token_probe import TokenProbe
from tests.support.counting_model import count_text
from tests.support.fault_backend import FaultBackend
from tests.support.faults import fault
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.waiting import eventually

#: How vLLM ends an answer that it breaks off: as if it were whole, but for the reason.
ABORTED = (
    b'data: {"id":"chatcmpl-x","object":"chat.completion.chunk","created":1,"model":"tiny","choices":[{"index":0,'
    b'"delta":{"content":""},"logprobs":null,"finish_reason":"abort","stop_reason":null,"token_ids":[]}]}\n\n'
    b"data: [DONE]\n\n"
)


def config(*backends: FaultBackend) -> str:
    lines = "\n".join(
        f"  b{number}: {{url: '{backend.url}', kind: vllm, health: {{interval: 100ms}}}}"
        for number, backend in enumerate(backends)
    )
    names = ", ".join(f"b{number}" for number in range(len(backends)))
    return f"backends:\n{lines}\nroutes: [{{model: tiny, backends: [{names}]}}]\n"


async def post(gateway: RunningGateway, url: str) -> object:
    async with gateway.session.post(url) as answer:
        assert answer.status == 200
        return await answer.json()


async def test_requests_go_elsewhere_while_one_sleeps_and_come_back_when_it_is_awake() -> None:
    async with FaultBackend() as a, FaultBackend() as b, running_gateway(config(a, b)) as gateway:
        first, second = gateway.gateway.runtime.endpoints.values()
        await eventually(lambda: first.state == second.state == "healthy")
        assert await post(gateway, f"{a.url}/sleep?level=1&mode=abort") == {"status": "sleeping", "level": 1}
        await eventually(lambda: first.state == "asleep")
        answers = [await gateway.chat() for _ in range(6)]
        assert {(answer.status, answer.headers["x-seawall-backend"]) for answer in answers} == {(200, "b1")}
        assert await post(gateway, f"{a.url}/wake_up") == {"status": "awake", "tags": None}
        await eventually(lambda: first.state == "healthy")
        backends = {(await gateway.chat()).headers["x-seawall-backend"] for _ in range(8)}
        assert backends == {"b0", "b1"}


async def test_a_request_that_meets_an_engine_just_asleep_is_answered_by_another() -> None:
    """It is taken in and held; the gateway asks another beside it."""
    async with FaultBackend() as a, FaultBackend() as b:
        text = config(a, b).replace("100ms", "1h") + "policies: {default: {timeout: {first_token: 200ms}}}\n"
        async with running_gateway(text) as gateway:
            await post(gateway, f"{a.url}/sleep")
            answers = await asyncio.gather(*[gateway.chat() for _ in range(4)])
            assert {answer.status for answer in answers} == {200}
            assert {answer.headers["x-seawall-backend"] for answer in answers} == {"b1"}


async def test_when_all_sleep_clients_are_told_at_once_and_served_once_one_is_awake() -> None:
    policy = "policies: {default: {admission: {max_wait: 0s}}}\n"
    async with FaultBackend() as a, running_gateway(config(a) + policy) as gateway:
        (only,) = gateway.gateway.runtime.endpoints.values()
        await post(gateway, f"{a.url}/sleep?level=2")
        await eventually(lambda: only.state == "asleep")
        refused = await gateway.chat()
        assert (refused.status, refused.headers["x-should-retry"]) == (503, "true")
        assert refused.error["error_type"] == refused.error["code"] == "model_overloaded"
        assert "asleep" in refused.error["message"]
        assert "/wake_up" in refused.error["message"]
        assert "retry-after" in refused.headers
        await post(gateway, f"{a.url}/wake_up")
        await eventually(lambda: only.state == "healthy")
        assert (await gateway.chat()).status == 200


async def test_who_waits_in_vain_for_one_to_be_woken_is_told_what_to_do_and_other_states_have_their_own_words() -> None:
    policy = "policies: {default: {admission: {max_wait: 200ms}}}\n"
    async with FaultBackend() as a, FaultBackend() as b, running_gateway(config(a, b) + policy) as gateway:
        asleep, other = gateway.gateway.runtime.endpoints.values()
        await eventually(lambda: asleep.state == other.state == "healthy")
        await post(gateway, f"{a.url}/sleep")
        await b.kill()
        await eventually(lambda: (asleep.state, other.state) == ("asleep", "unhealthy"))
        refused = await gateway.chat()
        assert (refused.status, refused.error["error_type"]) == (503, "model_overloaded")
        assert "asleep" in refused.error["message"]
        b.inject(fault("loading", path="/health"))
        await b.start()
        await eventually(lambda: other.state == "loading")
        assert (await gateway.chat()).error["error_type"] == "model_loading"


@pytest.mark.parametrize("after", [0, 3, 7])
async def test_a_stream_that_is_aborted_as_its_engine_falls_asleep_goes_on_elsewhere(after: int) -> None:
    async with FaultBackend() as a, FaultBackend() as b, running_gateway(config(a, b)) as gateway:
        a.inject(fault("frame", after=after, body=ABORTED))
        answers = [await gateway.chat(stream=True) for _ in range(4)]
        assert [answer.streamed for answer in answers] == [count_text(1, 8)] * 4
        assert not any("abort" in str(answer.frames) for answer in answers)


async def test_an_aborted_stream_with_nowhere_to_go_ends_with_an_error() -> None:
    async with FaultBackend() as a, running_gateway(config(a)) as gateway:
        a.inject(fault("frame", after=3, body=ABORTED))
        answer = await gateway.chat(stream=True)
        assert answer.error["error_type"] == "generation_failed"
        assert "[DONE]" not in answer.frames


async def test_a_sleeping_engine_is_not_taken_for_a_hung_one() -> None:
    async with FaultBackend() as a, aiohttp.ClientSession() as session:
        probe = TokenProbe(a.url, timeout=0.1)
        await probe()
        async with session.post(f"{a.url}/sleep"), session.get(f"{a.url}/is_sleeping") as answer:
            assert await answer.json() == {"is_sleeping": True}
        await probe()  # asks for no token: it would not come
        assert sum(seen.path == "/v1/completions" for seen in a.log) == 1
