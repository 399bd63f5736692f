"""A timer that comes late because the process itself stood still: what others sent meanwhile counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from backends.held_up import LATE, MOST, longer, patient_timeout
from backends.workers import gpu_watch
from backends.workers.gpu_watch import GpuWatch
from backends.workers.supervisor_probes import problem_of
from gateway.health.checks import CheckResult, HealthChecks, Status
from gateway.upstream.pool import Pool
from tests.support.waiting import eventually

TIMEOUT, STILL = 0.02, 0.2


async def sent_meanwhile() -> str:
    """What comes while the process stands still, and is read after the timers that were due before it."""
    loop = asyncio.get_running_loop()
    sent = loop.create_future()
    loop.call_later(STILL / 2, sent.set_result, "sent")
    time.sleep(STILL)  # noqa: ASYNC251
    return str(await sent)


async def within_timeout(*still: float) -> None:
    """Stands still for so long each, with a moment in between, and then waits for what does not come."""
    async with patient_timeout(TIMEOUT):
        for seconds in still:
            time.sleep(seconds)  # noqa: ASYNC251
            await asyncio.sleep(0.01)
        await never()


async def never() -> None:
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize(
    ("late", "more"), [(-1.0, 0.0), (0.0, 0.0), (LATE, 0.0), (0.5, 0.5), (MOST, MOST), (3600.0, MOST)]
)
def test_as_much_longer_as_the_timer_is_late_within_limits(late: float, more: float) -> None:
    assert longer(0.0, late) == more


async def test_what_came_while_the_process_stood_still_is_in_time() -> None:
    async with patient_timeout(TIMEOUT):
        assert await sent_meanwhile() == "sent"


async def test_silence_is_silence_whether_the_process_stood_still_or_not() -> None:
    for seconds in (0.0, STILL):
        with pytest.raises(TimeoutError):
            await within_timeout(seconds)


async def test_it_may_stand_still_again_and_again_but_has_more_time_only_once() -> None:
    with pytest.raises(TimeoutError):
        await within_timeout(STILL, STILL, STILL)


async def test_a_cancelled_task_is_cancelled_and_leaves_no_timer() -> None:
    async def body() -> None:
        async with patient_timeout(TIMEOUT):
            await never()

    task = asyncio.create_task(body())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with patient_timeout(TIMEOUT):
        pass
    await asyncio.sleep(2 * TIMEOUT)  # a timer that was left would cancel this


@asynccontextmanager
async def server() -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


async def test_a_connection_that_was_made_in_time_is_not_taken_for_one_that_was_not() -> None:
    ready, failed = list[Any](), list[Any]()
    async with server() as port:
        pool = Pool("127.0.0.1", port, limit=1, connect_timeout=TIMEOUT)
        pool.connect(TIMEOUT, ready.append, lambda *why: failed.append(why))
        await asyncio.sleep(0)
        time.sleep(STILL)  # noqa: ASYNC251
        await eventually(lambda: bool(ready or failed))
        assert failed == []
        ready[0].abort()
        pool.close()


async def check(probe: Callable[[], Awaitable[object]]) -> str | None:
    async def result() -> CheckResult:
        await probe()
        return CheckResult(Status.HEALTHY, "")

    checks = HealthChecks()
    checks.register("it", result, timeout=TIMEOUT)
    return (await checks.report())["checks"]["it"]["message"] or None


async def devices(probe: Callable[[], Awaitable[object]]) -> str | None:
    loop = asyncio.get_running_loop()

    class Gpus:
        def read(self) -> tuple[list[Any], str, bool]:
            asyncio.run_coroutine_threadsafe(_awaited(probe), loop).result(2 * MOST)
            return [SimpleNamespace(memory_used=0)], "", False

    report = await GpuWatch(Gpus(), selects=lambda gpu: False).report()  # type: ignore[arg-type]
    return report.message if report.failed else None


async def _awaited(probe: Callable[[], Awaitable[object]]) -> None:
    await probe()


ASKED = [lambda probe: problem_of(probe, TIMEOUT), check, devices]


@pytest.mark.parametrize("asked", ASKED, ids=["a worker", "a health check", "devices"])
async def test_who_answered_a_check_while_the_process_stood_still_is_well(
    asked: Callable[[Callable[[], Awaitable[object]]], Awaitable[str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_watch, "_TIMEOUT", TIMEOUT)
    assert await asked(sent_meanwhile) is None
    assert await asked(lambda: asyncio.sleep(1.2 * MOST)) is not None
