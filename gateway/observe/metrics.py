"""Counters of the hot path: plain numbers in slotted objects, bound to routes and endpoints when a config is loaded.

Nothing is looked up by label while a request runs; names become labels only when `/metrics` is scraped. Label values
come from the configuration and fixed enums, never from a request, so the number of series is bounded.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.process_collector import ProcessCollector

from gateway import __version__
from gateway.observe.alert_targets import RESULTS as ALERT_RESULTS
from gateway.observe.exposition import FAMILIES, HistogramValue, Snapshot, expose, merge
from gateway.observe.tracing import RESULTS as TRACE_RESULTS
from policies.outcome import ErrorKind

#: The route of requests that belong to none: unknown paths and models, and what is refused before routing.
NO_ROUTE = "none"
BREAKER_STATES = {"closed": 0, "half_open": 1, "open": 2}
SERVICE_STATES = {"active": 0, "draining": 1, "ejected": 2}

#: Seconds. Answers take from a millisecond (an embedding) to ten minutes (the default total timeout).
DURATION_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 600.0)
FIRST_TOKEN_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0)
OUTPUT_TOKEN_BOUNDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.015,
    0.02,
    0.025,
    0.03,
    0.04,
    0.05,
    0.075,
    0.1,
    0.15,
    0.25,
    0.5,
    1.0,
)
QUEUE_WAIT_BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
OVERHEAD_BOUNDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1.0)

#: Why a request did not get its turn: no place in the queue, its place taken by one of a higher priority, too long a
#: wait to be expected, the longest wait over, and the longest wait over with no backend up.
SHED_REASONS = ("queue_full", "displaced", "too_long", "max_wait", "outage")

#: Why work of a backend was for nothing: the attempt failed, another one answered first, its stream broke, its client
#: left, its time was over.
WASTE_CAUSES = ("failed", "beaten", "interrupted", "disconnected", "deadline")
#: What became of a stream's break: gone on from token ids or by replay; the answer cannot be gone on with exactly; no
#: endpoint, attempt or budget was left; the endpoints that were asked failed.
RESUME_OUTCOMES = ("token_ids", "replay", "not_exact", "no_endpoint", "failed")

#: Why a request was made smaller, and the faults that a policy may inject.
REDUCTION_CAUSES = ("out_of_memory", "degraded")
FAULTS = ("abort", "delay")

_OTHER_STATUS = 0


class Histogram:
    """Counts of observed values (seconds) per bucket. `bounds` are inclusive upper bounds in ascending order."""

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.exemplars: list[tuple[str, float] | None] = [None] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, correlation_id: str | None = None) -> None:
        """Counts a value; the correlation ID becomes its bucket's exemplar."""
        at = bisect_left(self.bounds, value)
        self.counts[at] += 1
        self.sum += value
        if correlation_id is not None:
            self.exemplars[at] = (correlation_id, value)

    def value(self) -> HistogramValue:
        return HistogramValue(
            bounds=list(self.bounds), counts=list(self.counts), sum=self.sum, exemplars=list(self.exemplars)
        )


class RouteMetrics:
    """Numbers of one route. Increment the plain ones in place; `finished` counts a whole request."""

    __slots__ = (
        "completion_tokens",
        "degradation",
        "duration",
        "errors",
        "faults",
        "first_token",
        "hedges",
        "in_flight",
        "interrupted",
        "name",
        "ok",
        "output_token",
        "overhead",
        "prompt_tokens",
        "queue_length",
        "queue_wait",
        "reduced",
        "resumes",
        "retries",
        "retry_budget_exhausted",
        "shed",
        "stale",
        "static",
        "wasted_seconds",
        "wasted_tokens",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.in_flight = 0
        self.ok = 0
        self.errors = dict.fromkeys(ErrorKind, 0)
        self.interrupted = dict.fromkeys(ErrorKind, 0)
        self.duration = Histogram(DURATION_BOUNDS)
        self.first_token = Histogram(FIRST_TOKEN_BOUNDS)
        self.output_token = Histogram(OUTPUT_TOKEN_BOUNDS)
        self.overhead = Histogram(OVERHEAD_BOUNDS)
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.retries = 0
        self.retry_budget_exhausted = 0
        self.queue_length: Callable[[], int] = int
        self.queue_wait = Histogram(QUEUE_WAIT_BOUNDS)
        self.shed = dict.fromkeys(SHED_REASONS, 0)
        self.hedges = 0
        self.stale = 0
        self.static = 0
        self.degradation: Callable[[], int] = int
        self.reduced = dict.fromkeys(REDUCTION_CAUSES, 0)
        self.faults = dict.fromkeys(FAULTS, 0)
        self.wasted_seconds = dict.fromkeys(WASTE_CAUSES, 0.0)
        self.wasted_tokens = dict.fromkeys(WASTE_CAUSES, 0)
        self.resumes = dict.fromkeys(RESUME_OUTCOMES, 0)

    def finished(
        self,
        error: ErrorKind | None,
        duration: float,
        *,
        overhead: float | None = None,
        first_token: float | None = None,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        correlation_id: str | None = None,
    ) -> None:
        """Counts a request that is over (times in seconds); `in_flight` is left to the caller."""
        if error is None:
            self.ok += 1
        else:
            self.errors[error] += 1
        self.duration.observe(duration, correlation_id)
        if overhead is not None:
            self.overhead.observe(overhead)
        if first_token is not None:
            self.first_token.observe(first_token, correlation_id)
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens

    def wasted(self, cause: str, seconds: float, tokens: int) -> None:
        """Counts a backend's work that was for nothing; `cause` is one of `WASTE_CAUSES`."""
        self.wasted_seconds[cause] += seconds
        self.wasted_tokens[cause] += tokens

    def samples(self) -> Iterator[tuple[str, tuple[str, ...], Any]]:
        """(family, label values, value) of everything here."""
        route = self.name
        yield "seawall_requests_total", (route, "ok"), self.ok
        for kind, count in self.errors.items():
            yield "seawall_requests_total", (route, kind.value), count
            if kind is ErrorKind.CLIENT_DISCONNECTED:
                yield "seawall_client_disconnects_total", (route,), count
            else:
                yield "seawall_errors_total", (route, kind.value), count
        yield "seawall_requests_in_flight", (route,), self.in_flight
        yield "seawall_request_duration_seconds", (route,), self.duration.value()
        yield "seawall_time_to_first_token_seconds", (route,), self.first_token.value()
        yield "seawall_time_per_output_token_seconds", (route,), self.output_token.value()
        yield "seawall_overhead_seconds", (route,), self.overhead.value()
        yield "seawall_tokens_total", (route, "prompt"), self.prompt_tokens
        yield "seawall_tokens_total", (route, "completion"), self.completion_tokens
        yield "seawall_retries_total", (route,), self.retries
        yield "seawall_retry_budget_exhausted_total", (route,), self.retry_budget_exhausted
        yield "seawall_queue_length", (route,), self.queue_length()
        yield "seawall_queue_wait_seconds", (route,), self.queue_wait.value()
        for reason, count in self.shed.items():
            yield "seawall_shed_total", (route, reason), count
        yield "seawall_hedges_total", (route,), self.hedges
        yield "seawall_stale_answers_total", (route,), self.stale
        yield "seawall_static_answers_total", (route,), self.static
        yield "seawall_degradation_level", (route,), self.degradation()
        for cause, count in self.reduced.items():
            yield "seawall_reduced_total", (route, cause), count
        for fault, count in self.faults.items():
            yield "seawall_faults_injected_total", (route, fault), count
        for cause in WASTE_CAUSES:
            yield "seawall_wasted_seconds_total", (route, cause), self.wasted_seconds[cause]
            yield "seawall_wasted_tokens_total", (route, cause), self.wasted_tokens[cause]
        for outcome, count in self.resumes.items():
            yield "seawall_stream_resumes_total", (route, outcome), count
        for kind, count in self.interrupted.items():
            if count:
                yield "seawall_stream_interrupted_total", (route, kind.value), count


class AttemptMetrics:
    """Numbers of one endpoint as a target of one route."""

    __slots__ = ("beaten", "failures", "fallbacks", "ok")

    def __init__(self) -> None:
        self.ok = self.beaten = 0
        self.failures = dict.fromkeys(ErrorKind, 0)
        self.fallbacks = 0

    def judged(self, failure: ErrorKind | None) -> None:
        """Counts an attempt whose outcome is known."""
        if failure is None:
            self.ok += 1
        else:
            self.failures[failure] += 1

    def samples(self, route: str, backend: str) -> Iterator[tuple[str, tuple[str, ...], Any]]:
        yield "seawall_attempts_total", (route, backend, "ok"), self.ok
        if self.beaten:
            yield "seawall_attempts_total", (route, backend, "beaten"), self.beaten
        for kind, count in self.failures.items():
            if count:
                yield "seawall_attempts_total", (route, backend, kind.value), count
        yield "seawall_fallbacks_total", (route, backend), self.fallbacks


class EndpointMetrics:
    """Numbers of one endpoint. What lives elsewhere is read through the callables that `bind` is given."""

    __slots__ = (
        "_breaker_state",
        "_healthy",
        "_in_flight",
        "_limit",
        "_service",
        "breaker_transitions",
        "name",
        "probe_duration",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.breaker_transitions = dict.fromkeys(BREAKER_STATES, 0)
        self.probe_duration: float | None = None
        self._breaker_state: Callable[[], str] | None = None
        self._in_flight: Callable[[], int] | None = None
        self._limit: Callable[[], int] | None = None
        self._healthy: Callable[[], bool] | None = None
        self._service: Callable[[], str] | None = None

    def bind(
        self,
        *,
        breaker_state: Callable[[], str] | None = None,
        in_flight: Callable[[], int] | None = None,
        limit: Callable[[], int] | None = None,
        healthy: Callable[[], bool] | None = None,
        service: Callable[[], str] | None = None,
    ) -> None:
        """Names the sources of the gauges, anew after every reload.

        `breaker_state` gives one of `BREAKER_STATES`, `service` one of `SERVICE_STATES`.
        """
        self._breaker_state = breaker_state
        self._in_flight = in_flight
        self._limit = limit
        self._healthy = healthy
        self._service = service

    def samples(self) -> Iterator[tuple[str, tuple[str, ...], Any]]:
        """(family, label values, value) of everything here; nothing for gauges without a source."""
        backend = (self.name,)
        if self._breaker_state is not None:
            yield "seawall_endpoint_breaker_state", backend, BREAKER_STATES[self._breaker_state()]
        for state, count in self.breaker_transitions.items():
            yield "seawall_endpoint_breaker_transitions_total", (self.name, state), count
        if self._in_flight is not None:
            yield "seawall_endpoint_in_flight", backend, self._in_flight()
        if self._limit is not None:
            yield "seawall_endpoint_concurrency_limit", backend, self._limit()
        if self._healthy is not None:
            yield "seawall_endpoint_healthy", backend, int(self._healthy())
        if self._service is not None:
            yield "seawall_endpoint_service", backend, SERVICE_STATES[self._service()]
        if self.probe_duration is not None:
            yield "seawall_endpoint_probe_duration_seconds", backend, self.probe_duration


class StateMetrics:
    """Numbers of the exchange with other replicas."""

    __slots__ = ("exchanges", "replicas", "seconds", "up")

    def __init__(self) -> None:
        self.up = False
        self.replicas = 1
        self.seconds = 0.0
        self.exchanges = {"ok": 0, "failed": 0}

    def samples(self) -> Iterator[tuple[str, tuple[str, ...], Any]]:
        yield "seawall_state_up", (), int(self.up)
        yield "seawall_state_replicas", (), self.replicas
        yield "seawall_state_exchange_seconds", (), self.seconds
        for result, count in self.exchanges.items():
            yield "seawall_state_exchanges_total", (result,), count


class Metrics:
    """All numbers of one process. `routes` and `endpoints` are the configured names."""

    def __init__(self, routes: Sequence[str], endpoints: Sequence[str], *, start_time: float | None = None) -> None:
        self.log_lines_dropped: Callable[[], int] = int
        self.last_reload_successful = True
        self.workers = 1
        self.state: StateMetrics | None = None
        self.discovered: Callable[[], Mapping[str, int]] = dict
        self.worker_restarts = 0
        self.reloads = dict.fromkeys(("taken", "refused"), 0)
        self.alert_messages: Mapping[str, int] = dict.fromkeys(ALERT_RESULTS, 0)
        self.trace_spans: Mapping[str, int] = dict.fromkeys(TRACE_RESULTS, 0)
        self._start_time = time.time() if start_time is None else start_time
        self._routes: dict[str, RouteMetrics] = {}
        self._endpoints: dict[str, EndpointMetrics] = {}
        self._attempts: dict[tuple[str, str], AttemptMetrics] = {}
        self._responses: dict[int, int] = {}
        self._process = ProcessCollector(registry=None)
        self.reload(routes, endpoints)

    def reload(self, routes: Sequence[str], endpoints: Sequence[str]) -> None:
        """Takes over a new configuration's names: those that stay keep their numbers, those that left are dropped."""
        self._routes = {name: self._routes.get(name) or RouteMetrics(name) for name in (*routes, NO_ROUTE)}
        self._endpoints = {name: self._endpoints.get(name) or EndpointMetrics(name) for name in endpoints}
        self._attempts = {
            pair: attempt
            for pair, attempt in self._attempts.items()
            if pair[0] in self._routes and pair[1] in self._endpoints
        }

    def routes(self) -> Iterable[RouteMetrics]:
        """The numbers of every route, those of `NO_ROUTE` among them."""
        return self._routes.values()

    def route(self, name: str | None) -> RouteMetrics:
        """The numbers of a route; those of `NO_ROUTE` for a name that is not configured."""
        return self._routes.get(name or NO_ROUTE) or self._routes[NO_ROUTE]

    def endpoint(self, name: str) -> EndpointMetrics:
        """The numbers of an endpoint. Raises KeyError if it is not configured."""
        return self._endpoints[name]

    def attempts(self, route: str, endpoint: str) -> AttemptMetrics:
        """The numbers of an endpoint as a target of a route.

        For names that are not configured any more (a request may outlast a reload) they are scraped by nobody.
        """
        found = self._attempts.get((route, endpoint))
        if found is None:
            found = AttemptMetrics()
            if route in self._routes and endpoint in self._endpoints:
                self._attempts[route, endpoint] = found
        return found

    def reloaded(self, taken: bool) -> None:
        """Counts an attempt to take over a changed configuration."""
        self.last_reload_successful = taken
        self.reloads["taken" if taken else "refused"] += 1

    def responded(self, status: int) -> None:
        """Counts an answer sent to a client; what is not an HTTP status is counted as `other`."""
        code = status if 100 <= status <= 599 else _OTHER_STATUS
        self._responses[code] = self._responses.get(code, 0) + 1

    def snapshot(self) -> Snapshot:
        """All numbers now, as JSON can carry them to the worker that answers the scrape."""
        found: Snapshot = {name: [] for name in FAMILIES}
        for name, labels, value in self._samples():
            found[name].append((labels, value))
        return {name: samples for name, samples in found.items() if samples}

    def text(self, accept: str | None = None, others: Iterable[Snapshot] = ()) -> tuple[str, bytes]:
        """(content type, body) for `/metrics`; `others` are snapshots of the other workers."""
        return expose(merge((self.snapshot(), *others)), accept)

    def _samples(self) -> Iterator[tuple[str, tuple[str, ...], Any]]:
        for route in self._routes.values():
            yield from route.samples()
        for (route_name, backend), attempts in self._attempts.items():
            yield from attempts.samples(route_name, backend)
        for endpoint in self._endpoints.values():
            yield from endpoint.samples()
        for code, count in self._responses.items():
            yield "seawall_http_responses_total", (str(code) if code else "other",), count
        yield "seawall_log_lines_dropped_total", (), self.log_lines_dropped()
        for result, count in self.reloads.items():
            yield "seawall_reloads_total", (result,), count
        yield "seawall_last_reload_successful", (), int(self.last_reload_successful)
        for result, count in self.alert_messages.items():
            yield "seawall_alert_messages_total", (result,), count
        for result, count in self.trace_spans.items():
            yield "seawall_trace_spans_total", (result,), count
        for backend, count in self.discovered().items():
            yield "seawall_discovered_endpoints", (backend,), count
        if self.state is not None:
            yield from self.state.samples()
        yield "seawall_workers", (), self.workers
        yield "seawall_worker_restarts_total", (), self.worker_restarts
        yield "seawall_build_info", (__version__,), 1
        yield "seawall_start_time_seconds", (), self._start_time
        for metric in self._process.collect():
            for sample in metric.samples:
                if sample.name in FAMILIES:
                    yield sample.name, (), sample.value
