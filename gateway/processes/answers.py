"""What any process of a gateway tells of itself, as JSON values: for operators, and for the worker that they asked."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from gateway.admin.acts import Verb, perform

if TYPE_CHECKING:
    from gateway.app import Gateway

Operation = Callable[..., Any]


def status(gateway: Gateway) -> dict[str, Any]:
    """The part of `/status` that differs between workers."""
    now = monotonic()
    return {
        "worker": gateway.peers.number,
        "pid": os.getpid(),
        "uptime_seconds": round(now - gateway.started, 3),
        "requests_in_flight": gateway.services.in_flight,
        "connections": gateway.server.connections,
        "endpoints": {name: endpoint.snapshot(now) for name, endpoint in gateway.runtime.endpoints.items()},
        "routes": {
            route.name: {"waiting": len(route.room), "degradation": int(route.degradation_level())}
            for route in gateway.runtime.routes.routes
        },
    }


def errors(gateway: Gateway) -> dict[str, Any]:
    """The counts behind `/errors`."""
    return gateway.services.errors.counts(gateway.services.clock())


def stories(gateway: Gateway, correlation_id: str) -> list[dict[str, Any]]:
    """What is known of a request, newest first."""
    return [story.to_dict() for story in gateway.services.requests.find(correlation_id)]


def metrics(gateway: Gateway) -> Any:
    """All numbers."""
    return gateway.metrics.snapshot()


def act(gateway: Gateway, verb: str, backend: str) -> None:
    """Does what an operator has asked another worker for."""
    if backend in gateway.runtime.endpoints:
        perform(gateway.runtime.endpoints, Verb(verb), backend, monotonic())
        gateway.monitor.expire()


async def page(gateway: Gateway, asker: int | None, **wanted: bool) -> dict[str, Any]:
    """This process's part of the operators' page."""
    return await gateway.admin.tell(asker, **wanted)


def search(gateway: Gateway, text: str, outcome: str, limit: int) -> list[dict[str, Any]]:
    """The stories that a search finds, newest first."""
    return gateway.admin.search(text, outcome, limit)


OPERATIONS: dict[str, Operation] = {
    "status": status,
    "errors": errors,
    "stories": stories,
    "metrics": metrics,
    "act": act,
    "page": page,
    "search": search,
}
