"""Sleeping and waking of a real vLLM. The CPU build has no sleep mode, but its development mode can pause the engine
(level 0), with the same endpoints and the same gauge."""

from __future__ import annotations

import asyncio

import aiohttp
import openai
import pytest

from backends.workers.gpu import Gpus
from tests.support.fault_backend import FaultBackend
from tests.support.figures import Figures
from tests.support.gateway import running_gateway
from tests.support.sleep_mode import SleepMode
from tests.support.vllm.install import Installed
from tests.support.vllm.stack import START_TIMEOUT, Stopwatch, VLLMWorker
from tests.support.waiting import eventually
from tests.support.wire import RawRequest

pytestmark = pytest.mark.slow
TOKENS = 450


async def test_a_paused_engine_gets_no_requests_and_is_not_restarted(installed: Installed) -> None:
    worker = VLLMWorker(installed, "--liveness-timeout", "2", env={"VLLM_SERVER_DEV_MODE": "1"})
    try:
        await asyncio.to_thread(worker.wait_ready)
        async with FaultBackend() as other:
            text = (
                f"backends:\n  a: {{url: '{worker.url}', kind: vllm, health: {{interval: 500ms}}}}\n"
                f"  b: {{url: '{other.url}', kind: vllm}}\n"
                f"  c: {{url: '{worker.url}', kind: vllm, model: tiny}}\n"
                "routes:\n  - {model: tiny, backends: [a], fallback: [b]}\n"
                "  - {model: alone, backends: [c]}\n"
            )
            async with running_gateway(text) as gateway:
                slept, _, _ = gateway.gateway.runtime.endpoints.values()
                await eventually(lambda: slept.state == "healthy", 30)
                client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)
                begun = asyncio.Semaphore(0)
                streams = [asyncio.create_task(ended(client, begun)) for _ in range(8)]
                for _ in range(8):
                    await begun.acquire()
                fake = SleepMode()
                for method, target in (
                    ("POST", "/sleep?level=0"),
                    ("GET", "/is_sleeping"),
                ):
                    await same(gateway.session, worker.url, fake, method, target)
                # What ran was broken off or was done before: never a cut answer that looks whole.
                ends = await asyncio.gather(*streams)
                assert set(ends) <= {"error", f"length {TOKENS}"}
                async with gateway.session.get(f"{worker.url}/metrics") as answer:
                    lines = (await answer.text()).splitlines()
                told = [line for line in fake.exposition("tiny") if not line.startswith("#")]
                assert set(told) <= set(lines)
                await eventually(lambda: slept.state == "asleep", 30)
                assert (await gateway.chat()).headers["x-seawall-backend"] == "b"
                await asyncio.sleep(6)  # several probes of the supervisor
                assert (worker.state(), worker.status()["restarts"]) == ("ready", 0)
                await same(gateway.session, worker.url, fake, "POST", "/wake_up")
                await eventually(lambda: slept.state == "healthy", 30)
                assert (await gateway.chat()).headers["x-seawall-backend"] == "a"
                await client.close()
    finally:
        await asyncio.to_thread(worker.close)


async def ended(client: openai.AsyncOpenAI, begun: asyncio.Semaphore) -> str:
    """How a stream of many tokens ends: its finish_reason and their number, or `error`; `begun` is released once."""
    reason, tokens = None, 0
    try:
        stream = await client.chat.completions.create(
            model="alone",
            messages=[{"role": "user", "content": "Hi"}],
            max_tokens=TOKENS,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        async for chunk in stream:
            if reason is None and tokens == 0 and chunk.choices:
                tokens = -1
                begun.release()
            reason = next((choice.finish_reason for choice in chunk.choices if choice.finish_reason), reason)
            tokens = chunk.usage.completion_tokens if chunk.usage else tokens
    except openai.APIError:
        return "error"
    return f"{reason} {tokens}"


async def same(session: aiohttp.ClientSession, url: str, fake: SleepMode, method: str, target: str) -> None:
    """The real server answers what the stand-in answers."""
    expected = fake.answer(RawRequest(method, target, {}, b""))
    assert expected is not None
    async with session.request(method, url + target) as answer:
        assert (answer.status, await answer.read()) == (200, expected.body)


def test_a_build_without_sleep_mode_says_so(installed: Installed) -> None:
    if installed.on_gpu:
        pytest.skip("this build has a sleep mode")
    worker = VLLMWorker(installed, "--sleep", "--max-failures", "5")
    try:
        assert worker.process.wait(START_TIMEOUT) == 1  # at once: the same command can never come to anything
        assert "\nusage: " in worker.process.output
        assert "Sleep mode is not supported on current platform" in worker.process.output
    finally:
        worker.process.close()


@pytest.mark.parametrize("level", [1, 2])
async def test_a_sleeping_server_gives_its_memory_back_and_answers_the_same_when_woken(
    installed: Installed, figures: Figures, level: int
) -> None:
    if not installed.on_gpu:
        pytest.skip("needs a GPU and a build of vLLM for it (SEAWALL_TEST_VLLM)")
    worker = VLLMWorker(installed, "--sleep", "--liveness-timeout", "2")
    try:
        await asyncio.to_thread(worker.wait_ready)
        text = (
            f"backends:\n  a: {{url: '{worker.url}', kind: vllm, health: {{interval: 500ms}}}}\n"
            "routes:\n  - {model: tiny, backends: [a]}\n"
        )
        async with running_gateway(text) as gateway:
            (slept,) = gateway.gateway.runtime.endpoints.values()
            await eventually(lambda: slept.state == "healthy", 30)
            awake = memory_used()
            assert (before := await gateway.chat(temperature=0)).status == 200
            async with gateway.session.post(f"{worker.url}/sleep?level={level}") as answer:
                assert answer.status == 200
            await eventually(lambda: slept.state == "asleep", 30)
            asleep = memory_used()
            figures.add(f"memory that sleep of level {level} gives back", (awake - asleep) / 2**30, "GiB")
            assert asleep < awake / 2
            assert (await gateway.chat()).status == 503
            await asyncio.sleep(6)  # several probes of the supervisor
            assert (worker.state(), worker.status()["restarts"]) == ("ready", 0)
            watch = Stopwatch()
            async with gateway.session.post(f"{worker.url}/wake_up") as answer:
                assert answer.status == 200
            if level == 2:  # the weights are gone, and are read again when asked for
                body = {"method": "reload_weights"}
                async with gateway.session.post(f"{worker.url}/collective_rpc", json=body) as answer:
                    assert answer.status == 200
            await eventually(lambda: slept.state == "healthy", 30)
            figures.add(f"woken from level {level} and in use", watch.seconds, "s")
            after = await gateway.chat(temperature=0)
            assert after.json()["choices"] == before.json()["choices"]
    finally:
        await asyncio.to_thread(worker.close)


def memory_used() -> int:
    """Bytes in use on the first GPU."""
    (device, *_), _, _ = Gpus().read()
    return device.memory_used
