from __future__ import annotations

import asyncio
import json

import pytest

from backends.workers.gpu import Gpu
from gateway.health.checks import (
    CheckResult,
    EndpointHealth,
    HealthChecks,
    Status,
    backends_check,
    disk_check,
    gpu_check,
    memory_check,
)
from gateway.health.resources import Disk, Memory, Resources

HEALTHY, DEGRADED, UNHEALTHY = (CheckResult(status, status.value) for status in Status)
GIB = 2**30


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def checks(clock: Clock) -> HealthChecks:
    return HealthChecks(cache_for=1.0, clock=clock, wall=lambda: 0.0)


@pytest.mark.parametrize(
    ("critical", "other", "overall", "failures"),
    [
        (HEALTHY, HEALTHY, "healthy", []),
        (HEALTHY, DEGRADED, "degraded", []),
        (HEALTHY, UNHEALTHY, "degraded", []),
        (DEGRADED, HEALTHY, "degraded", []),
        (UNHEALTHY, HEALTHY, "critical", ["important"]),
        (UNHEALTHY, UNHEALTHY, "critical", ["important"]),
    ],
)
async def test_the_whole_is_as_bad_as_its_worst_critical_check(
    checks: HealthChecks, critical: CheckResult, other: CheckResult, overall: str, failures: list[str]
) -> None:
    checks.register("important", lambda: critical, critical=True)
    checks.register("other", lambda: other)
    report = await checks.report()
    assert (report["overall_status"], report["critical_failures"]) == (overall, failures)


async def test_a_report_has_the_contracts_fields(checks: HealthChecks) -> None:
    async def check() -> CheckResult:
        return CheckResult(Status.HEALTHY, "fine", {"free": 1})

    checks.register("disk", check, critical=True)
    report = await checks.report()
    assert json.loads(json.dumps(report)) == {
        "overall_status": "healthy",
        "checks": {
            "disk": {
                "status": "healthy",
                "critical": True,
                "message": "fine",
                "duration_ms": 0.0,
                "details": {"free": 1},
            }
        },
        "critical_failures": [],
        "timestamp": "1970-01-01T00:00:00.000Z",
    }


async def test_no_checks_at_all_are_healthy(checks: HealthChecks) -> None:
    assert (await checks.report())["overall_status"] == "healthy"


async def test_a_check_that_hangs_fails_and_holds_nobody_up(checks: HealthChecks) -> None:
    async def hang() -> CheckResult:
        await asyncio.Event().wait()
        return HEALTHY

    checks.register("hangs", hang, critical=True, timeout=0.01)
    checks.register("fine", lambda: HEALTHY)
    report = await checks.report()
    assert report["critical_failures"] == ["hangs"]
    assert report["checks"]["hangs"]["message"] == "did not answer within 0.01 s"
    assert report["checks"]["fine"]["status"] == "healthy"


async def test_a_check_that_raises_fails_without_telling_its_secrets(checks: HealthChecks) -> None:
    def broken() -> CheckResult:
        raise RuntimeError("cannot reach http://user:hunter2@10.0.0.5")

    checks.register("broken", broken)
    report = await checks.report()
    assert report["overall_status"] == "degraded"
    assert report["checks"]["broken"]["message"] == "the check itself failed (RuntimeError)"


async def test_asking_often_runs_the_checks_once(checks: HealthChecks, clock: Clock) -> None:
    runs = 0

    async def count() -> CheckResult:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        return HEALTHY

    checks.register("counted", count)
    await asyncio.gather(*(checks.report() for _ in range(50)))
    clock.now = 0.9
    await checks.report()
    assert runs == 1
    clock.now = 1.0
    await checks.report()
    assert runs == 2
    checks.expire()
    await checks.report()
    assert runs == 3


async def test_one_who_stops_waiting_does_not_take_the_report_from_others(checks: HealthChecks) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> CheckResult:
        entered.set()
        await go_on.wait()
        return HEALTHY

    checks.register("slow", slow)
    first, second = asyncio.create_task(checks.report()), asyncio.create_task(checks.report())
    await entered.wait()
    first.cancel()
    go_on.set()
    assert (await second)["overall_status"] == "healthy"


UP, DOWN = EndpointHealth("a", True), EndpointHealth("b", False, "cannot connect")


@pytest.mark.parametrize(
    ("routes", "status", "message"),
    [
        ({"chat": [UP]}, Status.HEALTHY, "every backend is usable"),
        ({"chat": [UP, DOWN]}, Status.DEGRADED, "not usable: b"),
        ({"chat": [UP], "images": [DOWN]}, Status.UNHEALTHY, "no usable backend for images"),
        ({"chat": []}, Status.UNHEALTHY, "no usable backend for chat"),
    ],
)
async def test_a_route_without_a_usable_backend_is_unhealthy(
    routes: dict[str, list[EndpointHealth]], status: Status, message: str
) -> None:
    result = backends_check(lambda: routes)()
    assert isinstance(result, CheckResult)
    assert (result.status, result.message) == (status, message)


def resources(
    memory: float = 0.5, disk: float = 0.5, gpus: tuple[Gpu, ...] = (), message: str = "", failed: bool = False
) -> Resources:
    return Resources(
        0.1, Memory(int(memory * GIB), GIB), Disk(int((1 - disk) * GIB), GIB), gpus, message, gpu_failed=failed
    )


@pytest.mark.parametrize(
    ("check", "sample", "status", "message"),
    [
        (memory_check, None, Status.HEALTHY, "not sampled yet"),
        (memory_check, resources(memory=0.5), Status.HEALTHY, "50% of 1.0 GiB used"),
        (memory_check, resources(memory=0.96), Status.UNHEALTHY, "96% of 1.0 GiB used"),
        (disk_check, resources(disk=0.5), Status.HEALTHY, "0.5 GiB of 1.0 GiB free"),
        (disk_check, resources(disk=0.99), Status.UNHEALTHY, "0.0 GiB of 1.0 GiB free"),
        (gpu_check, resources(message="not present (no driver)"), Status.HEALTHY, "not present (no driver)"),
        (gpu_check, resources(message="cannot be read (lost)", failed=True), Status.UNHEALTHY, "cannot be read (lost)"),
        (gpu_check, resources(gpus=(Gpu(0, "H100", 75 * GIB, 80 * GIB, 1.0),)), Status.HEALTHY, "1 present"),
        (
            gpu_check,
            resources(gpus=(Gpu(0, "H100", 5, 80, 0.0), Gpu(1, "H100", 79 * GIB, 80 * GIB, 1.0))),
            Status.UNHEALTHY,
            "GPU 1: 99% of its memory in use",
        ),
    ],
)
def test_checks_of_this_machine(check: object, sample: Resources | None, status: Status, message: str) -> None:
    result = check(lambda: sample)()  # type: ignore[operator]
    assert (result.status, result.message) == (status, message)
