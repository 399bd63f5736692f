"""Keeps model servers running: starts them, waits until they are ready, watches them, brings them back.

A server that ends, stops answering its health path, or answers it but makes no progress (`WorkerSpec.liveness`) is
ended with all its children and started again after a growing pause; one that keeps failing is given up as `failed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random as random_module
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

from backends.workers.gpu_watch import GpuWatch, visible
from backends.workers.supervisor_http import status_server
from backends.workers.supervisor_policy import RestartSettings
from backends.workers.supervisor_probes import Probe
from backends.workers.supervisor_state import OnChange, OnLine, WorkerSnapshot, WorkerSpec, WorkerState
from backends.workers.supervisor_worker import Worker

__all__ = [
    "Probe",
    "RestartSettings",
    "Supervisor",
    "WorkerFailedError",
    "WorkerSnapshot",
    "WorkerSpec",
    "WorkerState",
    "run_supervised",
]


class WorkerFailedError(Exception):
    """A worker was given up; the message has its last error and the last lines of its output."""

    def __init__(self, snapshot: WorkerSnapshot) -> None:
        lines = "".join(f"\n  {line}" for line in snapshot.last_lines[-20:])
        failure = snapshot.failure
        advice = f"\n{failure.cause.value}: {failure.advice}" if failure else ""
        super().__init__(f"worker {snapshot.name} failed: {snapshot.last_error}{advice}{lines}")
        self.snapshot = snapshot


class Supervisor:
    """Runs workers while its context is open: `async with Supervisor(specs) as supervisor: …`.

    `on_line(name, line)` gets every line of output (default: to stderr with the worker's name); `on_change(snapshot)`
    every change of state and, while a worker loads, one call a second. Both are called in the event loop.
    """

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        *,
        on_line: OnLine | None = None,
        on_change: OnChange | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        names = [spec.name for spec in specs]
        if len(set(names)) != len(names):
            raise ValueError("two workers have the same name")
        self._on_change = on_change
        self._changed = asyncio.Event()
        on_line = on_line or _to_stderr
        self._workers = [Worker(spec, on_line, self._note, clock, sleep, random) for spec in specs]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(worker.run(), name=worker.spec.name) for worker in self._workers]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def snapshot(self) -> list[WorkerSnapshot]:
        """All workers, in the order given."""
        return [worker.snapshot() for worker in self._workers]

    async def wait_until(self, condition: Callable[[list[WorkerSnapshot]], bool]) -> list[WorkerSnapshot]:
        """The snapshot as soon as `condition(snapshot)` holds; looked at on every change of any worker."""
        while not condition(now := self.snapshot()):
            self._changed.clear()
            await self._changed.wait()
        return now

    async def wait_ready(self) -> None:
        """Returns when all workers are ready. Raises WorkerFailedError when one is given up."""
        settled = (WorkerState.READY, WorkerState.FAILED)
        for snapshot in await self.wait_until(lambda all_: all(one.state in settled for one in all_)):
            if snapshot.state is WorkerState.FAILED:
                raise WorkerFailedError(snapshot)

    async def stop(self) -> None:
        """SIGTERM to every server, then SIGKILL to what is left after its grace; cancelled, it kills at once."""
        self._cancel()
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        except asyncio.CancelledError:
            self._cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            raise
        finally:
            for worker in self._workers:
                await worker.close()

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _note(self, snapshot: WorkerSnapshot) -> None:
        self._changed.set()
        if self._on_change is not None:
            self._on_change(snapshot)


def run_supervised(
    specs: Sequence[WorkerSpec],
    *,
    on_line: OnLine | None = None,
    on_change: OnChange | None = None,
    status: tuple[str, int] | None = None,
    linger: float = 0.0,
) -> None:
    """Runs workers until SIGTERM or SIGINT, then drains them; a second signal kills them at once.

    `status`: host and port at which `/status`, `/metrics` and `/health` of the workers are served. Raises
    WorkerFailedError when all workers have failed, after `linger` seconds in which their ports still say so, and
    OSError when the status port is taken.
    """
    asyncio.run(_supervise(specs, on_line, on_change, status, linger))


async def _supervise(
    specs: Sequence[WorkerSpec],
    on_line: OnLine | None,
    on_change: OnChange | None,
    status: tuple[str, int] | None,
    linger: float,
) -> None:
    loop, signals, stopped = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT), asyncio.Event()
    stopping: asyncio.Task[None] | None = None

    def on_signal() -> None:
        if stopped.is_set() and stopping is not None:
            stopping.cancel()
        stopped.set()

    for number in signals:
        loop.add_signal_handler(number, on_signal)
    supervisor = Supervisor(specs, on_line=on_line, on_change=on_change)
    async with contextlib.AsyncExitStack() as stack:
        if status is not None:
            await stack.enter_async_context(status_server(*status, supervisor.snapshot, _watch(specs)))
        await stack.enter_async_context(supervisor)
        await _until_stopped_or_lost(supervisor, stopped, linger)
        stopped.set()
        stopping = asyncio.create_task(supervisor.stop())
        with contextlib.suppress(asyncio.CancelledError):
            await stopping
        snapshots = supervisor.snapshot()
    if _all_failed(snapshots):
        raise WorkerFailedError(snapshots[0])


def _watch(specs: Sequence[WorkerSpec]) -> GpuWatch:
    """The devices that any of the workers may use."""
    shown = [visible(spec.env.get("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES"))) for spec in specs]
    return GpuWatch(selects=lambda gpu: any(selects(gpu) for selects in shown))


async def _until_stopped_or_lost(supervisor: Supervisor, stopped: asyncio.Event, linger: float) -> None:
    failed = asyncio.create_task(supervisor.wait_until(_all_failed))
    asked = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({failed, asked}, return_when=asyncio.FIRST_COMPLETED)
        failures = [snapshot.failure for snapshot in supervisor.snapshot()]
        final = all(failure is not None and failure.final for failure in failures)
        if not asked.done() and linger and not final:
            _to_stderr("seawall", f"all workers are given up; their ports will say so for {linger:g} s")
            await asyncio.wait({asked}, timeout=linger)
    finally:
        for task in (failed, asked):
            task.cancel()


def _all_failed(snapshots: list[WorkerSnapshot]) -> bool:
    return all(snapshot.state is WorkerState.FAILED for snapshot in snapshots)


def _to_stderr(name: str, line: str) -> None:
    with contextlib.suppress(OSError):  # whoever read the log may be gone; the server goes on
        print(f"{name} | {line}", file=sys.stderr, flush=True)
