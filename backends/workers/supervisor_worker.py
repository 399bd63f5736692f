"""One supervised worker: what it is to run, where it is in its life, and that life."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from backends.workers.supervisor_policy import RestartPolicy, RestartSettings
from backends.workers.supervisor_probes import Probe, address, check_http, listening, problem_of
from backends.workers.supervisor_process import ServerProcess, describe_exit, telling_line
from policies.outcome import ErrorKind

_LAST_LINES = 100
_ERROR_LIMIT = 500
_PROGRESS_EVERY = 1.0


class WorkerState(StrEnum):
    """Where a worker is in its life."""

    STARTING = "starting"  # its process is being made
    LOADING = "loading"  # the process runs and is not ready yet
    READY = "ready"
    UNHEALTHY = "unhealthy"  # it was ready, and its last check failed
    BACKOFF = "backoff"  # it has ended and waits for its next start
    FAILED = "failed"  # a crash loop: not started again
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """A server to run. Times in seconds; `env` is added to the supervisor's own environment.

    Ready is a 200 from `health_url` (plain HTTP) within `ready_timeout`. `health_failures` failed checks in a row, or
    `liveness_failures` failed `liveness` probes (generate one token, say), mean a hung server, which is restarted: be
    generous, a busy server is slow to answer. `grace` is from SIGTERM to SIGKILL.
    """

    name: str
    argv: Sequence[str]
    health_url: str
    env: Mapping[str, str] = field(default_factory=dict)
    ready_timeout: float = 900.0
    ready_poll: float = 0.5
    health_interval: float = 5.0
    health_timeout: float = 10.0
    health_failures: int = 6
    liveness: Probe | None = None
    liveness_interval: float = 30.0
    liveness_timeout: float = 60.0
    liveness_failures: int = 2
    grace: float = 15.0
    restart: RestartSettings = field(default_factory=RestartSettings)


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """A worker at one moment. `uptime` is in seconds since its process started, `exit_code` that of the last one ended.

    `error_type` is model_loading, model_loading_failed, backend_unreachable or None (ready), as the gateway names it.
    """

    name: str
    state: WorkerState
    pid: int | None
    restarts: int
    uptime: float
    last_error: str | None
    exit_code: int | None
    last_lines: tuple[str, ...]

    @property
    def error_type(self) -> ErrorKind | None:
        """What a request sent to this worker now would meet."""
        return _ERROR_TYPES.get(self.state, ErrorKind.BACKEND_UNREACHABLE)


_ERROR_TYPES: Mapping[WorkerState, ErrorKind | None] = {
    WorkerState.READY: None,
    WorkerState.STARTING: ErrorKind.MODEL_LOADING,
    WorkerState.LOADING: ErrorKind.MODEL_LOADING,
    WorkerState.BACKOFF: ErrorKind.MODEL_LOADING,
    WorkerState.FAILED: ErrorKind.MODEL_LOADING_FAILED,
}

OnLine = Callable[[str, str], None]
OnChange = Callable[[WorkerSnapshot], None]


class Worker:
    """One worker's life, from start to start."""

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
        self._state = WorkerState.STARTING
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._problems: dict[str, str] = {}
        self._process: ServerProcess | None = None
        self._started_at = 0.0
        self._restarts = 0
        self._last_error: str | None = None
        self._exit_code: int | None = None

    def snapshot(self) -> WorkerSnapshot:
        running = self._process is not None
        return WorkerSnapshot(
            name=self.spec.name,
            state=self._state,
            pid=self._process.pid if self._process else None,
            restarts=self._restarts,
            uptime=self._clock() - self._started_at if running else 0.0,
            last_error=self._last_error,
            exit_code=self._exit_code,
            last_lines=tuple(self._lines),
        )

    async def run(self) -> None:
        try:
            while True:
                self._last_error = (await self._life())[:_ERROR_LIMIT]
                delay = self._policy.ended(self._clock())
                if delay is None:
                    self._enter(WorkerState.FAILED)
                    return
                self._enter(WorkerState.BACKOFF)
                await self._sleep(delay)
                self._restarts += 1
        finally:
            if self._state is not WorkerState.FAILED:
                self._enter(WorkerState.STOPPED)

    async def _life(self) -> str:
        """One process from start to end; why it ended."""
        self._lines.clear()
        self._enter(WorkerState.STARTING)
        host, port = address(self.spec.health_url)
        if await listening(host, port):
            # Another server there would answer our health checks for a process that cannot even listen.
            return f"{host}:{port} is already in use by another process"
        try:
            self._process = ServerProcess.start(
                self.spec.argv,
                self.spec.env,
                lines=self._lines,
                on_line=lambda line: self._on_line(self.spec.name, line),
            )
        except OSError as error:
            return f"cannot start a process: {error.strerror}"
        self._started_at = self._clock()
        hung = None
        try:
            hung = await self._watch(self._process)
        except asyncio.CancelledError:
            self._enter(WorkerState.STOPPING)
            raise
        finally:
            self._exit_code = await self._process.stop(self.spec.grace)
            self._process = None
        if self._exit_code is None:
            return "did not end after SIGKILL: it is stuck in the kernel, often in the GPU driver"
        return hung or f"{describe_exit(self._exit_code)}: {telling_line(self._lines)}".removesuffix(": ")

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
        self._policy.ready(self._clock())
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
        deadline = self._clock() + self.spec.ready_timeout
        told = self._clock()
        while await problem_of(self._health, self.spec.health_timeout):
            if self._clock() >= deadline:
                return False
            if self._clock() - told >= _PROGRESS_EVERY:
                told = self._clock()
                self._on_change(self.snapshot())
            await self._sleep(self.spec.ready_poll)
        return True

    async def _watch_probe(self, what: str, probe: Probe, every: float, timeout: float, limit: int) -> str:
        failures = 0
        while failures < limit:
            await self._sleep(every)
            problem = await problem_of(probe, timeout)
            failures = failures + 1 if problem else 0
            if problem:
                self._last_error = self._problems[what] = f"{what}: {problem}"[:_ERROR_LIMIT]
            else:
                self._problems.pop(what, None)
            self._enter(WorkerState.UNHEALTHY if self._problems else WorkerState.READY)
        return f"{limit} {what} checks in a row failed: {self._problems[what]}"

    async def _health(self) -> None:
        await check_http(self.spec.health_url)

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
