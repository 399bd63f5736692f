"""What the request's way writes to: metrics, the request log, error statistics, log lines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from gateway.context import RequestContext
from gateway.observe.error_stats import ErrorStats
from gateway.observe.logs import Logs, RequestRecord
from gateway.observe.metrics import Metrics
from gateway.observe.request_log import RequestLog, RequestStory
from gateway.observe.tracing import Tracing
from policies.outcome import ErrorKind


class Services:
    """Shared by all requests of a process. `clock` gives seconds since the epoch."""

    def __init__(
        self,
        metrics: Metrics,
        errors: ErrorStats,
        requests: RequestLog,
        logs: Logs,
        clock: Callable[[], float] = time.time,
        tracing: Tracing | None = None,
    ) -> None:
        self.metrics = metrics
        self.errors = errors
        self.requests = requests
        self.logs = logs
        self.clock = clock
        self.tracing = tracing
        self.log: Any = logs.logger
        self.in_flight = 0
        self._over: list[tuple[RequestContext, float, float]] = []  # with loop time and time of day
        self._soon = asyncio.get_running_loop().call_soon

    def begun(self) -> None:
        """A request has come."""
        self.in_flight += 1

    def routed(self, ctx: RequestContext, route: str) -> None:
        """The request that has come belongs to this route, and counts in its numbers from now on."""
        ctx.numbers = self.metrics.route(route)
        ctx.numbers.in_flight += 1

    def account(self, ctx: RequestContext, now: float) -> None:
        """Books a request that is over; `now` is loop time.

        All that end in one turn of the loop are booked together, at its end: one after the other they cost about half,
        as the processor still knows the way.
        """
        self.in_flight -= 1
        if ctx.numbers is not None:
            ctx.numbers.in_flight -= 1
        if not self._over:
            self._soon(self.settle)
        self._over.append((ctx, now, self.clock()))

    def settle(self) -> None:
        """Books what is over and not booked yet."""
        over, self._over = self._over, []
        for ctx, now, wall in over:
            self._book(ctx, now, wall)
            ctx.forget()

    def _book(self, ctx: RequestContext, now: float, wall: float) -> None:
        kind, status = None, ctx.status
        if ctx.error is not None:
            kind = ctx.error.kind
            status = 499 if kind is ErrorKind.CLIENT_DISCONNECTED else status
        duration = now - ctx.request.received_at
        overhead = duration - ctx.backend_time
        if overhead < 0.0:
            overhead = 0.0
        first_token = ctx.first_token_at - ctx.request.received_at if ctx.first_token_at else None
        usage = ctx.usage
        numbers = ctx.numbers or self.metrics.route(None)
        numbers.finished(
            kind,
            duration,
            overhead=overhead if ctx.attempts else None,
            first_token=first_token,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
            correlation_id=ctx.correlation_id,
        )
        if ctx.facts.stream and first_token is not None and usage is not None and usage.completion_tokens > 1:
            numbers.output_token.observe((duration - first_token) / (usage.completion_tokens - 1))
        self.metrics.responded(status)
        if ctx.budget_exhausted:
            numbers.retry_budget_exhausted += 1
        if kind is not None and ctx.first_token_at:
            numbers.interrupted[kind] += 1
        self.errors.record(kind, ctx.request.path, wall)
        if self.tracing is not None:
            self.tracing.finished(ctx, now, wall)
        record = _record(ctx, kind, status, duration, overhead, first_token, wall)
        self.requests.add(RequestStory(record, wall - duration, kind, ctx.attempts, ctx.request.received_at))
        self.logs.log_request(record)


def _record(
    ctx: RequestContext,
    kind: ErrorKind | None,
    status: int,
    duration: float,
    overhead: float,
    first_token: float | None,
    wall: float,
) -> RequestRecord:
    answered = ctx.answered_by
    usage = ctx.usage
    return {
        "timestamp": datetime.fromtimestamp(wall, UTC),
        "level": "warning" if status >= 500 else "info",
        "event": "request",
        "correlation_id": ctx.correlation_id,
        "method": ctx.request.method,
        "path": ctx.request.path,
        "route": ctx.route.name if ctx.route is not None else "none",
        "model": ctx.model or ctx.facts.model,
        "backend": answered.backend if answered is not None else None,
        "status": status,
        "error_type": kind.value if kind is not None else None,
        "attempts": len(ctx.attempts),
        "fallback": answered is not None and answered.fallback,
        "stream": ctx.facts.stream,
        "duration_ms": _milliseconds(duration),
        "ttft_ms": _milliseconds(first_token) if first_token is not None else None,
        "overhead_ms": _milliseconds(overhead),
        "prompt_tokens": usage.prompt_tokens if usage is not None else 0,
        "completion_tokens": usage.completion_tokens if usage is not None else 0,
        "bytes_in": len(ctx.request.body),
        "bytes_out": ctx.bytes_out,
        "key": ctx.key.name if ctx.key is not None else None,
        "client": ctx.request.peer,
        "degraded": ctx.degraded,
        "warning": ctx.warning,
    }


def _milliseconds(seconds: float) -> float:
    """To the microsecond; `round` takes three times as long."""
    return int(seconds * 1e6 + 0.5) / 1000
