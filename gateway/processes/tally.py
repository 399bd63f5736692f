"""What a worker has answered, in few numbers: told to the parent every other second, so that it outlives the worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gateway.observe.error_stats import ErrorStats
from gateway.observe.metrics import RouteMetrics
from policies.outcome import ErrorKind

if TYPE_CHECKING:
    from gateway.app import Gateway

#: JSON values: `errors` as `ErrorStats.export` gives them, `routes` by name as `answered` does.
Tally = Mapping[str, Any]


def tally(gateway: Gateway) -> dict[str, Any]:
    """That of this process."""
    names = [route.name for route in gateway.runtime.routes.routes]
    return {
        "errors": gateway.services.errors.export(),
        "routes": {name: answered(gateway.metrics.route(name)) for name in names},
    }


def answered(numbers: RouteMetrics) -> dict[str, Any]:
    """What a route's requests came to: answered well, errors by kind (a client that left is none), retries."""
    errors = {kind.value: count for kind, count in numbers.errors.items() if count and _is_error(kind)}
    return {"ok": numbers.ok, "retries": numbers.retries, "errors": errors}


def added(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """The sum of two that `answered` gave."""
    errors = dict(a["errors"])
    for kind, count in b["errors"].items():
        errors[kind] = errors.get(kind, 0) + count
    return {"ok": a["ok"] + b["ok"], "retries": a["retries"] + b["retries"], "errors": errors}


class Gone:
    """The sum of workers that are gone."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives seconds since the epoch."""
        self._clock = clock
        self._errors = ErrorStats(clock)
        self._routes: dict[str, dict[str, Any]] = {}

    def add(self, told: Tally) -> None:
        """Takes over what a worker told last; nothing where it told nothing."""
        if not told:
            return
        self._errors.absorb(told["errors"])
        for name, counts in told["routes"].items():
            known = self._routes.get(name)
            self._routes[name] = dict(counts) if known is None else added(known, counts)

    def errors(self) -> dict[str, Any]:
        """As `ErrorStats.counts` gives them now: what lies longer back than an hour is out of the rates."""
        return self._errors.counts(self._clock())

    def told(self) -> dict[str, Any]:
        """For the operators' page."""
        return {"errors": self.errors(), "routes": self._routes}


def _is_error(kind: ErrorKind) -> bool:
    return kind is not ErrorKind.CLIENT_DISCONNECTED
