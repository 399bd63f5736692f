"""One supervised worker's life, from start to start."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable

from backends.workers.load_failure import Cause, LoadFailure, Signs, is_noise, load_failure, percent_done, telling_line
from backends.workers.supervisor_policy import RestartPolicy
from backends.workers.supervisor_probes import Probe, address, check_http, listeners, listening, problem_of
from backends.workers.supervisor_process import ServerProcess, describe_exit
from backends.workers.supervisor_stand_in import StandIn
from backends.workers.supervisor_state import OnChange, OnLine, WorkerSnapshot, WorkerSpec, WorkerState

_LAST_LINES = 100
_ERROR_LIMIT = 500
_PROGRESS_EVERY = 1.0
_LISTEN_POLL = 0.2
_SHORT_GRACE = 5.0


class Worker:
    """Runs one server, again and again, until it is cancelled or the server is given up."""

    def __init__(
        self,
        spec: WorkerSpec,
        on_line: OnLine,
        on_change: OnChange,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        random: Callable[[], float],
    ) -> None:
        self.spec = spec
        self._on_line = on_line
        self._on_change = on_change
        self._clock = clock
        self._sleep = sleep
        self._policy = RestartPolicy(spec.restart, random)
        self._host, self._port = address(spec.health_url)
        self._stand_in = StandIn(self._host, self._port, self.snapshot) if spec.stand_in else None
        self._state = WorkerState.STARTING
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._said = 0  # kept lines since its process started
        self._signs = Signs()
        self._progress: float | None = None
        self._problems: dict[str, str] = {}
        self._process: ServerProcess | None = None
        self._started_at = 0.0
        self._ready_at: float | None = None
        self._load_time: float | None = None
        self._next_start: float | None = None
        self._restarts = 0
        self._last_error: str | None = None
        self._error_at = 0.0
        self._failure: LoadFailure | None = None
        self._exit_code: int | None = None

    def snapshot(self) -> WorkerSnapshot:
        now = self._clock()
        return WorkerSnapshot(
            name=self.spec.name,
            state=self._state,
            pid=self._process.pid if self._process else None,
            restarts=self._restarts,
            uptime=now - self._started_at if self._process is not None else 0.0,
            load_time=self._load_time,
            progress=self._progress if self._state is WorkerState.LOADING else None,
            last_error=self._last_error,
            error_age=None if self._last_error is None else now - self._error_at,
            failure=self._failure,
            exit_code=self._exit_code,
            next_start=None if self._next_start is None else max(0.0, self._next_start - now),
            last_lines=tuple(self._lines),
        )

    async def run(self) -> None:
        """Raises nothing but CancelledError; returns when the worker is given up."""
        try:
            while True:
                self._note_error(await self._life())
                failure = self._failure
                delay = self._policy.ended(self._clock(), lasting=failure is not None and failure.lasting)
                if failure is not None and failure.final:
                    delay = None
                if self._stand_in is not None:
                    await self._stand_in.open()
                if delay is None:
                    self._enter(WorkerState.FAILED)
                    return
                self._next_start = self._clock() + delay
                self._enter(WorkerState.BACKOFF)
                await self._sleep(delay)
                self._next_start = None
                self._restarts += 1
        finally:
            if self._state is not WorkerState.FAILED:
                self._enter(WorkerState.STOPPED)

    async def close(self) -> None:
        """Ends the answers in the server's place, if there still are any."""
        if self._stand_in is not None:
            await self._stand_in.close()

    async def _life(self) -> str:
        """One process from start to end; why it ended."""
        self._said, self._progress, self._ready_at, self._signs = 0, None, None, Signs()
        self._enter(WorkerState.STARTING)
        problem = await self._start()
        if problem is not None:
            self._failure = load_failure([problem])
            return problem
        assert self._process is not None
        hung: str | None = None
        try:
            hung = await self._watch(self._process)
        except asyncio.CancelledError:
            self._enter(WorkerState.STOPPING)
            raise
        finally:
            self._exit_code = await self._process.stop(self._grace(hung))
            self._process = None
        return self._why_ended(hung)

    def _grace(self, hung: str | None) -> float:
        """Seconds from SIGTERM to SIGKILL: a server that serves nobody has nothing to drain."""
        serves = self._ready_at is not None and hung is None
        return self.spec.grace if serves else min(_SHORT_GRACE, self.spec.grace)

    async def _start(self) -> str | None:
        """Makes the process; why it cannot be made."""
        if not self._keeps_port:
            await self.close()
        if (self._stand_in is None or not self._stand_in.is_open) and await listening(self._host, self._port):
            # Whoever listens there would answer our health checks for a process that cannot even listen.
            return f"{self._host}:{self._port} is already in use by another process"
        if self._keeps_port and self._stand_in is not None:
            await self._stand_in.open()
        try:
            self._process = ServerProcess.start(self.spec.argv, self.spec.env, on_line=self._hear)
        except OSError as error:
            return f"cannot start a process: {error.strerror}"
        self._started_at = self._clock()
        return None

    @property
    def _keeps_port(self) -> bool:
        """Whether the stand-in may listen beside the server. What SO_REUSEPORT does elsewhere is another thing."""
        return self.spec.shares_port and sys.platform == "linux"

    def _hear(self, line: str) -> None:
        if not is_noise(line):
            self._lines.append(line)
            self._said += 1
        if self._ready_at is None:
            self._signs.read(line)
            percent = percent_done(line)
            self._progress = self._progress if percent is None else percent
        self._on_line(self.spec.name, line)

    def _why_ended(self, hung: str | None) -> str:
        if self._exit_code is None:
            return "did not end after SIGKILL: it is stuck in the kernel, often in the GPU driver"
        said = list(self._lines)[-self._said :] if self._said else []
        if self._ready_at is None:
            failure = self._signs.failure(self._exit_code if hung is None else None)
            if hung is not None and failure.cause is Cause.UNKNOWN:
                failure = LoadFailure(Cause.TIMEOUT, failure.line)
            self._failure = failure
        line = self._failure.line if self._failure is not None else telling_line(said)
        return hung or f"{describe_exit(self._exit_code)}: {line}".removesuffix(": ")

    async def _watch(self, process: ServerProcess) -> str | None:
        """Returns when the process has ended (None) or must be (why)."""
        ended = asyncio.create_task(process.wait())
        watching = asyncio.create_task(self._watch_health())
        try:
            await asyncio.wait({ended, watching}, return_when=asyncio.FIRST_COMPLETED)
            return None if ended.done() else watching.result()
        finally:
            ended.cancel()
            watching.cancel()
            await asyncio.gather(ended, watching, return_exceptions=True)

    async def _watch_health(self) -> str:
        """Loading, then ready for as long as the probes pass; why the server must be restarted."""
        spec = self.spec
        self._problems.clear()
        self._enter(WorkerState.LOADING)
        if not await self._loaded():
            return f"not ready within {spec.ready_timeout:g} s; last line: {telling_line(self._lines)}"
        self._ready_at = self._clock()
        self._load_time = self._ready_at - self._started_at
        self._failure = None
        self._policy.ready(self._ready_at)
        self._enter(WorkerState.READY)
        watches = [
            self._watch_probe("health", self._health, spec.health_interval, spec.health_timeout, spec.health_failures)
        ]
        if spec.liveness is not None:
            watches.append(
                self._watch_probe(
                    "liveness", spec.liveness, spec.liveness_interval, spec.liveness_timeout, spec.liveness_failures
                )
            )
        return await _first(*watches)

    async def _loaded(self) -> bool:
        """Waits until the server is ready; whether it was in time."""
        deadline = self._clock() + self.spec.ready_timeout
        told = self._clock()
        while not await self._is_ready():
            if self._clock() >= deadline:
                return False
            if self._clock() - told >= _PROGRESS_EVERY:
                told = self._clock()
                self._on_change(self.snapshot())
            waits_for_port = self._stand_in is not None and self._stand_in.is_open
            await self._sleep(min(self.spec.ready_poll, _LISTEN_POLL) if waits_for_port else self.spec.ready_poll)
        return True

    async def _is_ready(self) -> bool:
        if self._stand_in is not None and self._stand_in.is_open:
            if listeners(self._port) <= self._stand_in.listeners:
                return False
            await self._stand_in.hand_over()  # the server listens by now: from here on it speaks for itself
        return await problem_of(self._health, self.spec.health_timeout) is None

    async def _watch_probe(self, what: str, probe: Probe, every: float, timeout: float, limit: int) -> str:
        failures = 0
        while failures < limit:
            await self._sleep(every)
            problem = await problem_of(probe, timeout)
            failures = failures + 1 if problem else 0
            if problem:
                self._problems[what] = f"{what}: {problem}"[:_ERROR_LIMIT]
                self._note_error(self._problems[what])
            else:
                self._problems.pop(what, None)
            self._enter(WorkerState.UNHEALTHY if self._problems else WorkerState.READY)
        return f"{limit} {what} checks in a row failed: {self._problems[what]}"

    async def _health(self) -> None:
        await check_http(self.spec.health_url)

    def _note_error(self, error: str) -> None:
        self._last_error = error[:_ERROR_LIMIT]
        self._error_at = self._clock()

    def _enter(self, state: WorkerState) -> None:
        if state is not self._state or state is WorkerState.STARTING:
            self._state = state
            self._on_change(self.snapshot())


async def _first(*watches: Awaitable[str]) -> str:
    """The first result; the others are cancelled."""
    tasks = [asyncio.ensure_future(watch) for watch in watches]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
