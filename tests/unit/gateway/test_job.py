"""A request's coroutine runs without a task, and is cancelled as a task would be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.http.job import Job, Signal


def job(coroutine: Any) -> Job:
    started = Job(coroutine, asyncio.get_running_loop())
    started.start()
    return started


async def test_it_runs_at_once_and_goes_on_before_set_returns() -> None:
    seen: list[str] = []
    signal = Signal()

    async def work() -> None:
        seen.append("begun")
        await signal
        seen.append("done")

    one = job(work())
    assert (seen, one.done) == (["begun"], False)
    signal.set()
    signal.set()
    assert (seen, one.done) == (["begun", "done"], True)


async def test_a_signal_that_is_set_already_does_not_wait() -> None:
    signal = Signal()
    signal.set()

    async def work() -> None:
        await signal

    assert job(work()).done


async def test_futures_and_sleeps_of_the_loop_can_be_awaited() -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()
    over: asyncio.Future[int] = loop.create_future()

    async def work() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        over.set_result(await future)

    job(work())
    loop.call_soon(future.set_result, 7)
    assert await asyncio.wait_for(over, 5) == 7


@pytest.mark.parametrize("kind", ["signal", "future"])
async def test_cancelling_raises_on_the_loops_next_turn_and_what_comes_later_is_ignored(kind: str) -> None:
    loop = asyncio.get_running_loop()
    signal, future = Signal(), loop.create_future()
    seen: list[str] = []

    async def work() -> None:
        try:
            await (signal if kind == "signal" else future)
            seen.append("went on")
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0)
            seen.append("cleaned up")

    one = job(work())
    one.cancel()
    signal.set()
    assert seen == []
    for _ in range(5):
        await asyncio.sleep(0)
    assert (seen, one.done) == (["cancelled", "cleaned up"], True)
    assert kind == "signal" or future.cancelled()


async def test_one_that_cancels_itself_hears_of_it_at_its_next_wait() -> None:
    seen: list[str] = []
    box: list[Job] = []

    async def work() -> None:
        await asyncio.sleep(0)
        box[0].cancel()
        seen.append("still runs")
        await Signal()
        seen.append("never")

    box.append(job(work()))
    for _ in range(5):
        await asyncio.sleep(0)
    assert (seen, box[0].done) == (["still runs"], True)


async def test_an_error_that_nobody_caught_is_reported_to_the_loop() -> None:
    loop = asyncio.get_running_loop()
    told: list[Any] = []
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))

    async def work() -> None:
        raise ValueError("x")

    assert job(work()).done
    assert isinstance(told[0], ValueError)
