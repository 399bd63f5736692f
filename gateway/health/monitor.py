"""Keeps the endpoints' health up to date and answers for the whole gateway's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from gateway.endpoint import Endpoint, Service
from gateway.health.checks import (
    Check,
    EndpointHealth,
    HealthChecks,
    backends_check,
    disk_check,
    gpu_check,
    memory_check,
)
from gateway.health.pressure import pressures
from gateway.health.prober import Prober, ProbeResult, ProbeTarget
from gateway.health.resources import Resources, ResourceSampler
from gateway.observe.metrics import Metrics
from gateway.runtime import Runtime
from policies.breaker import State


class Monitor:
    """Probes the endpoints, samples this machine's resources, and reports both as health checks."""

    def __init__(self, runtime: Runtime, metrics: Metrics, log: Any) -> None:
        self._runtime = runtime
        self._metrics = metrics
        self._log = log
        self._prober = Prober(self._probed)
        self._watch(runtime)
        self._sampler = ResourceSampler()
        self._checks = HealthChecks()
        self._checks.register("backends", backends_check(self._routes), critical=True)
        self._checks.register("memory", memory_check(lambda: self._sampler.latest))
        self._checks.register("disk", disk_check(lambda: self._sampler.latest))
        self._checks.register("gpu", gpu_check(lambda: self._sampler.latest))

    async def start(self) -> None:
        """Starts probing and sampling."""
        self._sampler.start()
        await self._prober.start(_targets(self._runtime))

    async def stop(self) -> None:
        """Stops both."""
        await self._prober.stop()
        await self._sampler.stop()

    def update(self, runtime: Runtime) -> None:
        """Takes over a new configuration; what is known of endpoints that stay is kept."""
        self._runtime = runtime
        self._watch(runtime)
        self._prober.update(_targets(runtime))
        self._checks.expire()

    def weigh(self, now: float) -> None:
        """Sets how far each route's requests are made smaller, by the pressure that is on it."""
        for route in self._runtime.routes.routes:
            degradation = route.degradation
            if degradation is not None:
                before = degradation.level
                level = degradation.update(pressures(route, self._sampler.latest), now)
                if level is not before:
                    self._log.warning("degradation", route=route.name, level=level.label, pressure=degradation.pressure)

    def expire(self) -> None:
        """The next report looks anew: an operator has changed something."""
        self._checks.expire()

    @property
    def resources(self) -> Resources | None:
        """The latest sample of this machine; None before the first."""
        return self._sampler.latest

    def register(self, name: str, check: Check) -> None:
        """Adds a check, or replaces the one of this name."""
        self._checks.register(name, check)
        self._checks.expire()

    def unregister(self, name: str) -> None:
        """Takes a check out, if it is there."""
        self._checks.unregister(name)

    @property
    def serves(self) -> bool:
        """Whether any route has an endpoint that may be asked."""
        return any(endpoint.usable for endpoints in self._routes().values() for endpoint in endpoints)

    async def report(self) -> dict[str, Any]:
        """The body of `GET /health`."""
        return await self._checks.report()

    def _watch(self, runtime: Runtime) -> None:
        for endpoint in runtime.endpoints.values():
            endpoint.on_missed = self._prober.missed

    def _probed(self, result: ProbeResult) -> None:
        endpoint = self._runtime.endpoints.get(result.endpoint)
        if endpoint is None:
            return
        before = endpoint.healthy
        endpoint.probed(result, monotonic())
        self._metrics.endpoint(result.endpoint).probe_duration = result.duration
        if result.state_changed or endpoint.healthy is not before:
            self._checks.expire()
            level = self._log.info if endpoint.healthy else self._log.warning
            level("endpoint_health", backend=result.endpoint, state=endpoint.state, reason=endpoint.message)

    def _routes(self) -> Mapping[str, Sequence[EndpointHealth]]:
        now = monotonic()
        return {
            route.name: [_health(candidate.endpoint, now) for tier in route.tiers for candidate in tier]
            for route in self._runtime.routes.routes
        }


def _health(endpoint: Endpoint, now: float) -> EndpointHealth:
    opened = endpoint.breaker.state(now) is State.OPEN
    reasons = (f"{endpoint.service.value} by an operator" if endpoint.service is not Service.ACTIVE else "",)
    message = next(filter(None, (*reasons, endpoint.message, "circuit open" if opened else "")), "")
    return EndpointHealth(endpoint.name, endpoint.in_service and not opened, message)


def _targets(runtime: Runtime) -> list[ProbeTarget]:
    return [endpoint.probe_target for endpoint in runtime.endpoints.values()]
