"""Health checks: registered as critical or not, run together with a timeout each, reported for `GET /health`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import structlog

from backends.held_up import patient_timeout
from gateway.errors.render import iso_timestamp
from gateway.health.resources import Resources

_log = structlog.get_logger()

#: Shares in use from which the checks of this machine complain.
MEMORY_FULL = 0.95
DISK_FULL = 0.95


class Status(StrEnum):
    """Of one check. An unhealthy critical one makes the whole critical, all else that is not healthy degraded."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found."""

    status: Status
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)


Check = Callable[[], CheckResult | Awaitable[CheckResult]]


@dataclass(frozen=True, slots=True)
class _Registered:
    check: Check
    critical: bool
    timeout: float


class HealthChecks:
    """The registry.

    A report is kept for `cache_for` seconds and those who ask meanwhile share the one under way, so asking often costs
    nothing. `clock` is monotonic, `wall` gives seconds since the epoch.
    """

    def __init__(
        self,
        *,
        cache_for: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._cache_for = cache_for
        self._clock = clock
        self._wall = wall
        self._checks: dict[str, _Registered] = {}
        self._report: dict[str, Any] | None = None
        self._fresh_until = 0.0
        self._running: asyncio.Task[dict[str, Any]] | None = None

    def register(self, name: str, check: Check, *, critical: bool = False, timeout: float = 2.0) -> None:
        """Adds a check, or replaces the one of this name. A plain function must not block; a coroutine may wait, for
        at most `timeout` seconds."""
        self._checks[name] = _Registered(check, critical, timeout)

    def unregister(self, name: str) -> None:
        """Takes the check of this name out, if there is one."""
        if self._checks.pop(name, None) is not None:
            self.expire()

    def expire(self) -> None:
        """Has the next report made anew, as something has changed."""
        self._fresh_until = 0.0

    async def report(self) -> dict[str, Any]:
        """`overall_status` (healthy, degraded, critical), each check's result, the critical failures' names."""
        if self._report is not None and self._clock() < self._fresh_until:
            return self._report
        if self._running is None:
            self._running = asyncio.create_task(self._run_all(), name="health-checks")
            self._running.add_done_callback(self._finished)
        # One who stops waiting (a client that left) must not take the report from the others.
        return await asyncio.shield(self._running)

    def _finished(self, task: asyncio.Task[dict[str, Any]]) -> None:
        self._running = None
        if not task.cancelled() and task.exception() is None:
            self._report = task.result()
            self._fresh_until = self._clock() + self._cache_for

    async def _run_all(self) -> dict[str, Any]:
        checks = dict(self._checks)
        results = await asyncio.gather(*(self._run(name, registered) for name, registered in checks.items()))
        reported = dict(zip(checks, results, strict=True))
        failures = [
            name for name, result in reported.items() if result["critical"] and result["status"] == Status.UNHEALTHY
        ]
        all_healthy = all(result["status"] == Status.HEALTHY for result in results)
        return {
            "overall_status": "critical" if failures else "healthy" if all_healthy else "degraded",
            "checks": reported,
            "critical_failures": failures,
            "timestamp": iso_timestamp(self._wall()),
        }

    async def _run(self, name: str, registered: _Registered) -> dict[str, Any]:
        started = self._clock()
        try:
            async with patient_timeout(registered.timeout):
                result = registered.check()
                if not isinstance(result, CheckResult):
                    result = await result
        except TimeoutError:
            result = CheckResult(Status.UNHEALTHY, f"did not answer within {registered.timeout:g} s")
        except Exception as error:
            _log.exception("health_check_failed", check=name)
            result = CheckResult(Status.UNHEALTHY, f"the check itself failed ({type(error).__name__})")
        return {
            "status": result.status.value,
            "critical": registered.critical,
            "message": result.message,
            "duration_ms": round((self._clock() - started) * 1000, 3),
            "details": dict(result.details),
        }


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """What the backends' check needs to know of an endpoint. `usable`: a request could be sent there now."""

    name: str
    usable: bool
    message: str = ""


def backends_check(routes: Callable[[], Mapping[str, Sequence[EndpointHealth]]]) -> Check:
    """Unhealthy when a route (name: endpoints of all its tiers) has no usable endpoint, degraded when one is down."""

    def check() -> CheckResult:
        now = routes()
        dead = [name for name, endpoints in now.items() if not any(endpoint.usable for endpoint in endpoints)]
        down = {e.name: e.message for endpoints in now.values() for e in endpoints if not e.usable}
        details = {
            "routes": {name: f"{sum(e.usable for e in endpoints)}/{len(endpoints)}" for name, endpoints in now.items()},
            "down": down,
        }
        if dead:
            return CheckResult(Status.UNHEALTHY, f"no usable backend for {', '.join(dead)}", details)
        if down:
            return CheckResult(Status.DEGRADED, f"not usable: {', '.join(down)}", details)
        return CheckResult(Status.HEALTHY, "every backend is usable", details)

    return check


def _sampled(latest: Callable[[], Resources | None], judge: Callable[[Resources], CheckResult]) -> Check:
    def check() -> CheckResult:
        resources = latest()
        return CheckResult(Status.HEALTHY, "not sampled yet") if resources is None else judge(resources)

    return check


def memory_check(latest: Callable[[], Resources | None]) -> Check:
    """Unhealthy when memory is nearly used up; in a container, its own."""

    def judge(resources: Resources) -> CheckResult:
        memory = resources.memory
        details = {"used_bytes": memory.used, "limit_bytes": memory.limit}
        status = Status.HEALTHY if memory.share < MEMORY_FULL else Status.UNHEALTHY
        return CheckResult(status, f"{memory.share:.0%} of {_size(memory.limit)} used", details)

    return _sampled(latest, judge)


def disk_check(latest: Callable[[], Resources | None]) -> Check:
    """Unhealthy when the disk is nearly full."""

    def judge(resources: Resources) -> CheckResult:
        disk = resources.disk
        status = Status.HEALTHY if disk.share < DISK_FULL else Status.UNHEALTHY
        details = {"free_bytes": disk.free, "total_bytes": disk.total}
        return CheckResult(status, f"{_size(disk.free)} of {_size(disk.total)} free", details)

    return _sampled(latest, judge)


def gpu_check(latest: Callable[[], Resources | None]) -> Check:
    """Unhealthy when GPUs that are there can't be read, have failed or are nearly out of memory. None at all is fine:
    the models may run elsewhere."""

    def judge(resources: Resources) -> CheckResult:
        if resources.gpu_failed:
            return CheckResult(Status.UNHEALTHY, resources.gpu_message)
        if not resources.gpus:
            return CheckResult(Status.HEALTHY, resources.gpu_message)
        details = {"devices": [gpu.as_json() for gpu in resources.gpus]}
        troubles = [f"GPU {gpu.index}: {gpu.trouble}" for gpu in resources.gpus if gpu.trouble]
        status = Status.UNHEALTHY if troubles else Status.HEALTHY
        return CheckResult(status, "; ".join(troubles) or f"{len(resources.gpus)} present", details)

    return _sampled(latest, judge)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def workers_check(serving: int, wanted: int) -> Check:
    """Degraded while worker processes are missing: the others serve on."""

    def check() -> CheckResult:
        status = Status.HEALTHY if serving >= wanted else Status.DEGRADED
        return CheckResult(status, f"{serving} of {wanted} serve", {"serving": serving, "wanted": wanted})

    return check
