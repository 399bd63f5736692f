"""What the page shows, as JSON: backends, routes, rates, this machine.

Each worker process tells its `part`; the one whose page it is makes the `whole` of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from time import monotonic
from typing import TYPE_CHECKING, Any

from gateway import __version__
from gateway.admin import merge
from gateway.admin.stories import lately
from gateway.errors.render import iso_timestamp
from gateway.observe.error_stats import report_of
from gateway.processes.tally import answered
from gateway.runtime import Route

if TYPE_CHECKING:
    from backends.workers.supervisor import WorkerSnapshot
    from gateway.app import Gateway
    from gateway.endpoint import Endpoint

#: Seconds that backends' latencies are taken over.
_LATELY = 60.0
Workers = Callable[[], Sequence["WorkerSnapshot"]]


async def part(gateway: Gateway, workers: Workers | None) -> dict[str, Any]:
    """What differs between worker processes, now."""
    now, clock = monotonic(), gateway.services.clock()
    recent = lately(gateway.services.requests, clock - _LATELY)
    supervised = {worker.name: _worker(worker) for worker in workers()} if workers is not None else {}
    used_by = _routes_by_backend(gateway.runtime.routes.routes)
    return {
        "worker": gateway.peers.number,
        "pid": os.getpid(),
        "uptime_seconds": round(now - gateway.started, 1),
        "health": await gateway.monitor.report(),
        "in_flight": gateway.services.in_flight,
        "queued": queued(gateway),
        "connections": gateway.server.connections,
        "errors": gateway.services.errors.counts(clock),
        "backends": [
            {
                **_backend(endpoint, now),
                "routes": used_by.get(name, []),
                "lately": recent.get(name),
                "worker": supervised.get(name),
            }
            for name, endpoint in gateway.runtime.endpoints.items()
        ],
        "routes": [_route(gateway, route, now) for route in gateway.runtime.routes.routes],
    }


def whole(
    gateway: Gateway, parts: Sequence[Mapping[str, Any]], gone: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The state of all worker processes, this one's part first; see `GET /admin/state` in the OpenAPI document.

    `gone` is what those that are gone had counted.
    """
    clock = gateway.services.clock()
    errors = report_of([one["errors"] for one in (*parts, *gone)], clock)
    facts = ("worker", "pid", "uptime_seconds", "in_flight", "connections")
    return {
        "version": __version__,
        "timestamp": iso_timestamp(clock),
        "uptime_seconds": max(one["uptime_seconds"] for one in parts),
        "draining": gateway.draining,
        "config": {
            "file": gateway.path.name if gateway.path is not None else None,
            "watched": gateway.runtime.config.server.watch,
        },
        "health": merge.health([one["health"] for one in parts]),
        **{name: sum(one[name] for one in parts) for name in ("in_flight", "queued", "connections")},
        "errors": {name: errors[name] for name in ("total_errors", "errors_last_minute", "by_type", "spikes")},
        "backends": merge.backends(parts),
        "routes": merge.routes(parts, gone[0]["routes"] if gone else {}),
        "workers": sorted(({name: one[name] for name in facts} for one in parts), key=lambda one: one["worker"] or 0),
        "machine": _machine(gateway),
    }


def queued(gateway: Gateway) -> int:
    """Requests that wait for a free slot."""
    return sum(len(room) for room in {id(r.room): r.room for r in gateway.runtime.routes.routes}.values())


def balances(gateway: Gateway) -> dict[str, str]:
    """The balancer of each route, by its name."""
    return {route.name: route.balance for route in gateway.runtime.routes.routes}


def _backend(endpoint: Endpoint, now: float) -> dict[str, Any]:
    circuit = endpoint.breaker.snapshot(now)
    return {
        "name": endpoint.name,
        "url": endpoint.config.url,
        **endpoint.snapshot(now),
        "kv_cache": endpoint.kv_cache if endpoint.dialect.metrics_path is not None else None,
        "breaker": {
            "state": circuit.state.value,
            "forced": endpoint.breaker.forced,
            "requests": circuit.requests,
            "failures": circuit.failures,
            "consecutive_failures": circuit.consecutive_failures,
            "retry_after": _rounded(circuit.retry_after),
        },
        "retry_after": _rounded(endpoint.retry_after(now)),
        "context_length": endpoint.config.context_length,
    }


def _route(gateway: Gateway, route: Route, now: float) -> dict[str, Any]:
    policy = route.policy
    written = next(found for found in gateway.runtime.config.routes if found.name == route.name)
    return {
        "name": route.name,
        "models": route.patterns,
        "policy": written.policy,
        "balance": policy.balance,
        "attempts": policy.retry.attempts,
        "timeouts": {"first_token": policy.timeout.first_token, "total": policy.timeout.total},
        "tiers": [
            [
                {"backend": candidate.name, "model": candidate.model, "usable": candidate.usable(now)}
                for candidate in tier
            ]
            for tier in route.tiers
        ],
        **answered(gateway.metrics.route(route.name)),
        "queued": len(route.room),
        "degradation": _degradation(route),
    }


def _degradation(route: Route) -> str | None:
    """The level that the route's requests are reduced to; None where its policy reduces nothing."""
    return route.degradation.level.label if route.degradation is not None else None


def _machine(gateway: Gateway) -> dict[str, Any] | None:
    sample = gateway.monitor.resources
    if sample is None:
        return None
    return {
        "cpu": round(sample.cpu, 3),
        "memory": {"used": sample.memory.used, "limit": sample.memory.limit},
        "disk": {"free": sample.disk.free, "total": sample.disk.total},
        "gpus": [asdict(gpu) for gpu in sample.gpus],
        "gpu_message": sample.gpu_message,
    }


def _worker(worker: WorkerSnapshot) -> dict[str, Any]:
    return {
        "state": str(worker.state),
        "pid": worker.pid,
        "restarts": worker.restarts,
        "uptime_seconds": round(worker.uptime, 1),
        "last_error": worker.last_error,
    }


def _routes_by_backend(routes: Sequence[Route]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for route in routes:
        for name in dict.fromkeys(candidate.name for tier in route.tiers for candidate in tier):
            found.setdefault(name, []).append(route.name)
    return found


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
