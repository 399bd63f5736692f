"""What is wrong with the gateway now, as conditions for alerts: looks at counters every few seconds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.endpoint import Service
from gateway.observe.error_stats import ErrorStats
from gateway.observe.metrics import Metrics
from policies.alerts import Condition
from policies.breaker import State
from policies.degrade import Level
from policies.outcome import ErrorKind

if TYPE_CHECKING:
    from gateway.runtime import Route, Runtime

#: Kinds are the names of the runbooks' sections. Those on the left wake somebody.
NO_BACKEND = "SeawallNoBackend"
ROUTE_DOWN = "SeawallRouteDown"
ERROR_BURN = "SeawallErrorBudgetBurn"
ERROR_SPIKE = "SeawallErrorSpike"
FALLBACK_SHARE = "SeawallFallbackShare"
DEGRADED = "SeawallDegraded"
BACKEND_DOWN = "SeawallBackendDown"
CRASH_LOOP = "SeawallWorkerCrashLoop"
CIRCUIT_OPEN = "SeawallCircuitOpen"
RELOAD_REFUSED = "SeawallReloadRefused"
STATE_NOT_SHARED = "SeawallStateNotShared"
PAGES = frozenset({NO_BACKEND, ROUTE_DOWN, ERROR_BURN})

#: Seconds that each kind has to hold before it is told.
HOLD = {
    NO_BACKEND: 30.0,
    ROUTE_DOWN: 30.0,
    ERROR_BURN: 60.0,
    ERROR_SPIKE: 0.0,
    FALLBACK_SHARE: 300.0,
    DEGRADED: 300.0,
    BACKEND_DOWN: 300.0,
    CRASH_LOOP: 0.0,
    CIRCUIT_OPEN: 120.0,
    RELOAD_REFUSED: 30.0,
    STATE_NOT_SHARED: 120.0,
}
#: Seconds over which shares of requests are taken, and the fewest requests that make a share.
WINDOW = 300.0
MIN_REQUESTS = 20
#: Shares of requests from which on a route's errors and fallbacks are worth an alert.
BURNING = 0.1
FALLING_BACK = 0.2
#: A backend that went down this often within so many seconds is in a crash loop.
CRASHES = 3
CRASH_WINDOW = 1800.0

#: Errors for want of a good answer; a client's own mistakes are none.
_OURS = (
    ErrorKind.GENERATION_FAILED,
    ErrorKind.BACKEND_UNREACHABLE,
    ErrorKind.MODEL_OVERLOADED,
    ErrorKind.MODEL_LOADING,
    ErrorKind.MODEL_LOADING_FAILED,
    ErrorKind.INFERENCE_TIMEOUT,
    ErrorKind.OUT_OF_MEMORY,
    ErrorKind.INTERNAL_ERROR,
)


@dataclass(frozen=True, slots=True)
class _Counts:
    """A route's counters at one moment."""

    at: float
    requests: int
    failed: int
    fallbacks: int


class Conditions:
    """Looks at one process."""

    def __init__(self, metrics: Metrics, errors: ErrorStats) -> None:
        self._metrics = metrics
        self._errors = errors
        self._counts: dict[str, deque[_Counts]] = {}
        self._up: dict[str, bool] = {}
        self._downs: dict[str, deque[float]] = {}

    def look(self, runtime: Runtime, now: float, wall: float) -> dict[Condition, str]:
        """What holds now, each with a line for people; `now` is loop time, `wall` seconds since the epoch."""
        found: dict[Condition, str] = {}
        self._backends(runtime, now, found)
        for route in runtime.routes.routes:
            self._route(route, now, found)
        for spike in self._errors.report(wall)["spikes"]:
            often = f"{spike['errors_last_minute']} in the last minute, {spike['average_per_minute']} on average before"
            found[Condition(ERROR_SPIKE, spike["error_type"])] = f"{spike['error_type']}: {often}"
        if not self._metrics.last_reload_successful:
            found[Condition(RELOAD_REFUSED, "")] = "the changed configuration is not valid; the one before it goes on"
        if self._metrics.state is not None and not self._metrics.state.up:
            found[Condition(STATE_NOT_SHARED, "")] = "Redis cannot be reached; each replica goes by its own state"
        self._forget(runtime)
        return found

    def _backends(self, runtime: Runtime, now: float, found: dict[Condition, str]) -> None:
        for name, endpoint in runtime.endpoints.items():
            if not endpoint.healthy and endpoint.service is Service.ACTIVE:
                found[Condition(BACKEND_DOWN, name)] = f"backend {name} fails its health checks"
            if endpoint.breaker.state(now) is State.OPEN:
                found[Condition(CIRCUIT_OPEN, name)] = f"the circuit of backend {name} is open"
            downs = self._downs.setdefault(name, deque(maxlen=CRASHES))
            if self._up.get(name, True) and not endpoint.healthy:
                downs.append(now)
            self._up[name] = endpoint.healthy
            if len(downs) == CRASHES and now - downs[0] <= CRASH_WINDOW:
                found[Condition(CRASH_LOOP, name)] = f"backend {name} went down {CRASHES} times within half an hour"
        if runtime.endpoints and not any(endpoint.healthy for endpoint in runtime.endpoints.values()):
            found[Condition(NO_BACKEND, "")] = "no backend is healthy"

    def _route(self, route: Route, now: float, found: dict[Condition, str]) -> None:
        members = [candidate.endpoint for tier in route.tiers for candidate in tier]
        if all(not each.in_service or each.breaker.state(now) is State.OPEN for each in members):
            found[Condition(ROUTE_DOWN, route.name)] = f"route {route.name}: none of its backends can be asked"
        if (level := Level(route.degradation_level())) is not Level.FULL:
            text = f"route {route.name}: requests are made smaller ({level.label}), as its backends are under pressure"
            found[Condition(DEGRADED, route.name)] = text
        then, latest = self._counted(route, now)
        requests = latest.requests - then.requests
        if requests < MIN_REQUESTS:
            return
        failed, fallbacks = (latest.failed - then.failed) / requests, (latest.fallbacks - then.fallbacks) / requests
        if failed > BURNING:
            found[Condition(ERROR_BURN, route.name)] = f"route {route.name}: {failed:.0%} of its requests fail"
        if fallbacks > FALLING_BACK:
            text = f"route {route.name}: {min(1.0, fallbacks):.0%} of its requests go to a fallback"
            found[Condition(FALLBACK_SHARE, route.name)] = text

    def _counted(self, route: Route, now: float) -> tuple[_Counts, _Counts]:
        """The route's counters a window ago and now."""
        numbers = self._metrics.route(route.name)
        names = {candidate.endpoint.name for tier in route.tiers for candidate in tier}
        latest = _Counts(
            now,
            numbers.ok + sum(numbers.errors.values()),
            sum(numbers.errors[kind] for kind in _OURS),
            sum(self._metrics.attempts(route.name, name).fallbacks for name in names),
        )
        counts = self._counts.setdefault(route.name, deque())
        if counts and latest.requests < counts[-1].requests:
            counts.clear()  # a reload dropped the route and brought it back
        counts.append(latest)
        while len(counts) > 1 and counts[1].at <= now - WINDOW:
            counts.popleft()
        return counts[0], latest

    def _forget(self, runtime: Runtime) -> None:
        """Drops what is known of names that a reload took away."""
        routes = {route.name for route in runtime.routes.routes}
        for known, names in ((self._counts, routes), (self._up, runtime.endpoints), (self._downs, runtime.endpoints)):
            for name in [name for name in known if name not in names]:
                del known[name]
