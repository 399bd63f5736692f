"""What a finished request looks like as spans: one of the request, one for each attempt. Values only, no OpenTelemetry.

Names follow OpenTelemetry's semantic conventions for HTTP (stable) and for generative AI (in development); what they
have no name for begins with `seawall.`.
https://opentelemetry.io/docs/specs/semconv/http/http-spans/, https://opentelemetry.io/docs/specs/semconv/gen-ai/
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gateway.paths import DATA_PATHS
from policies.outcome import ErrorKind
from policies.target import HEDGE, RESUME

if TYPE_CHECKING:
    from gateway.context import AttemptRecord, RequestContext

Attribute = str | int | float | bool
Attributes = dict[str, Attribute]

#: Characters kept of what clients and backends wrote.
MAX_TEXT = 256
#: Bytes of an answer in which its model and ID are looked for; servers write them first.
_ANSWER_HEAD = 2048
_FIELD = re.compile(rb'"(model|id)"\s*:\s*"([^"\\]{1,256})"')
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
    "/v1/score": "score",
}
_OPERATION_PREFIXES = (("/v1/images/", "image_generation"), ("/v1/audio/", "audio"), ("/v1/messages/", "chat"))
#: Why an attempt was made, as the event that tells of it.
_EVENTS = {HEDGE: "seawall.hedge", "fallback": "seawall.fallback", RESUME: "seawall.resume"}


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a request stands in its trace. IDs as integers (128 and 64 bits); `parent` is the client's span, if any.

    The span of attempt n is the request's own number plus n: unique within the trace, and known before it is over.
    """

    trace_id: int
    span_id: int
    parent: int | None
    sampled: bool

    def span_of(self, attempt: int) -> int:
        """The span ID of an attempt (1, 2, …)."""
        return (self.span_id + attempt) & 0xFFFF_FFFF_FFFF_FFFF or 1

    def traceparent_line(self, attempt: int) -> bytes:
        """The header line that makes a backend's spans children of the attempt's."""
        return b"traceparent: 00-%032x-%016x-%02x\r\n" % (self.trace_id, self.span_of(attempt), self.sampled)


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened at `at`, in nanoseconds since the epoch."""

    name: str
    at: int
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Span:
    """One span; times in nanoseconds since the epoch. `server`: of kind server, else client. `error`: its type."""

    name: str
    trace_id: int
    span_id: int
    parent: int | None
    parent_is_remote: bool
    server: bool
    start: int
    end: int
    attributes: Attributes
    events: tuple[SpanEvent, ...]
    error: str | None


def spans_of(ctx: RequestContext, trace: Trace, now: float, wall: float) -> list[Span]:
    """The spans of a request that is over. `now` is loop time, `wall` the same moment in seconds since the epoch."""
    offset = wall - now
    spans = [_request_span(ctx, trace, now, offset)]
    spans.extend(_attempt_span(ctx, record, trace, now, offset) for record in ctx.attempts)
    return spans


def _nanoseconds(at: float, offset: float) -> int:
    return int((at + offset) * 1e9)


def _request_span(ctx: RequestContext, trace: Trace, now: float, offset: float) -> Span:
    request = ctx.request
    route = http_route(request.path)
    kind = ctx.error.kind if ctx.error is not None else None
    attributes: Attributes = {
        "http.request.method": request.method,
        "url.path": request.path[:MAX_TEXT],
        "url.scheme": "https" if ctx.runtime.config.server.tls is not None else "http",
        "network.protocol.version": "1.1",
        "client.address": request.peer,
        "seawall.correlation_id": ctx.correlation_id,
        "seawall.attempts": len(ctx.attempts),
        **_host(request.header(b"host")),
    }
    if route is not None:
        attributes["http.route"] = route
    if (agent := request.header(b"user-agent")) is not None:
        attributes["user_agent.original"] = agent[:MAX_TEXT]
    if ctx.status:
        attributes["http.response.status_code"] = ctx.status
    if ctx.route is not None:
        attributes["seawall.route"] = ctx.route.name
    if ctx.key is not None:
        attributes["seawall.key"] = ctx.key.name
    if ctx.attempts:
        attributes["seawall.overhead_ms"] = round(max(0.0, now - request.received_at - ctx.backend_time) * 1000, 3)
    if (answered := ctx.answered_by) is not None:
        attributes["seawall.fallback"] = answered.fallback
    if ctx.degraded is not None:
        attributes["seawall.degraded"] = ctx.degraded
    if ctx.budget_exhausted:
        attributes["seawall.retry_budget_exhausted"] = True
    if kind is not None:
        attributes["error.type"] = kind.value
    # A client's own mistake is no error of the server: the convention leaves the status of 4xx unset.
    failed = kind is not None and kind is not ErrorKind.CLIENT_DISCONNECTED and not 400 <= ctx.status < 500
    return Span(
        name=f"{request.method} {route}" if route is not None else request.method,
        trace_id=trace.trace_id,
        span_id=trace.span_id,
        parent=trace.parent,
        parent_is_remote=True,
        server=True,
        start=_nanoseconds(request.received_at, offset),
        end=_nanoseconds(now, offset),
        attributes=attributes,
        events=tuple(_moves(ctx, offset)),
        error=kind.value if failed and kind is not None else None,
    )


def _moves(ctx: RequestContext, offset: float) -> Iterator[SpanEvent]:
    """An event for each attempt after the first, by why it was made."""
    failures = [record.failure for record in ctx.attempts]
    for before, record in zip(failures, ctx.attempts[1:], strict=False):
        attributes: Attributes = {
            "seawall.backend": record.backend,
            "seawall.attempt.number": record.number,
            "seawall.attempt.why": record.why,
        }
        if before is not None:
            attributes["error.type"] = before.kind.value
        yield SpanEvent(_EVENTS.get(record.why, "seawall.retry"), _nanoseconds(record.started, offset), attributes)


def _attempt_span(ctx: RequestContext, record: AttemptRecord, trace: Trace, now: float, offset: float) -> Span:
    attempt = record.attempt
    assert attempt is not None  # the request is not booked yet
    answered = record is ctx.answered_by
    end = _ended(ctx, record, now, answered=answered)
    operation = operation_of(ctx.api_path)
    attributes: Attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": attempt.endpoint.config.kind,
        "gen_ai.request.model": record.model[:MAX_TEXT],
        "http.request.method": ctx.request.method,
        **_address(attempt.endpoint.config.url, ctx.api_path),
        "seawall.correlation_id": ctx.correlation_id,
        "seawall.backend": record.backend,
        "seawall.attempt.number": record.number,
        "seawall.attempt.why": record.why,
        "seawall.fallback": record.fallback,
    }
    if record.number > 1:
        attributes["http.request.resend_count"] = record.number - 1
    facts = ctx.facts
    if facts.max_tokens is not None:
        attributes["gen_ai.request.max_tokens"] = facts.max_tokens
    if facts.stream:
        attributes["gen_ai.request.stream"] = True
    if (status := attempt.head.status if attempt.head is not None else None) is not None:
        attributes["http.response.status_code"] = status
    if record.beaten:
        attributes["seawall.attempt.beaten"] = True
    if answered:
        attributes |= _answer(ctx, record)
    if record.failure is not None:
        attributes["error.type"] = record.failure.kind.value
    return Span(
        name=f"{operation} {record.model[:MAX_TEXT]}",
        trace_id=trace.trace_id,
        span_id=trace.span_of(record.number),
        parent=trace.span_id,
        parent_is_remote=False,
        server=False,
        start=_nanoseconds(record.started, offset),
        end=_nanoseconds(end, offset),
        attributes=attributes,
        events=tuple(
            SpanEvent(f"seawall.breaker.{state}", _nanoseconds(at, offset), {"seawall.backend": record.backend})
            for at, state in attempt.endpoint.transitions
            if record.started <= at <= now
        ),
        error=record.failure.kind.value if record.failure is not None else None,
    )


def _ended(ctx: RequestContext, record: AttemptRecord, now: float, *, answered: bool) -> float:
    """When an attempt ended, in loop time; a stream that broke, when another attempt went on with it."""
    attempt = record.attempt
    assert attempt is not None  # the request is not booked yet
    if answered or not attempt.settled_at:
        return now
    if attempt.kind is None or record.beaten:
        return attempt.settled_at
    after = (later.started for later in ctx.attempts if later.why == RESUME and later.number > record.number)
    return next(after, now)


def _answer(ctx: RequestContext, record: AttemptRecord) -> Attributes:
    """What the answer says of itself: its ID, the model's own name, tokens, time to the first content."""
    attributes: Attributes = {}
    attempt = record.attempt
    assert attempt is not None  # the request is not booked yet
    found = dict(reversed(_FIELD.findall(attempt.held[:_ANSWER_HEAD])))
    for name in ("id", "model"):
        if (value := found.get(name.encode("ascii"))) is not None:
            attributes[f"gen_ai.response.{name}"] = value.decode("utf-8", "replace")
    if (usage := ctx.usage) is not None:
        attributes["gen_ai.usage.input_tokens"] = usage.prompt_tokens
        attributes["gen_ai.usage.output_tokens"] = usage.completion_tokens
    if ctx.facts.stream:
        attributes["gen_ai.response.time_to_first_chunk"] = round(attempt.settled_at - record.started, 6)
    return attributes


def operation_of(path: str) -> str:
    """`gen_ai.operation.name` for an API path; `other` for paths that no API is known by."""
    known = _OPERATIONS.get(path)
    if known is not None:
        return known
    return next((name for prefix, name in _OPERATION_PREFIXES if path.startswith(prefix)), "other")


def http_route(path: str) -> str | None:
    """`http.route`, one of a fixed list; None for paths that nothing serves."""
    if path in DATA_PATHS or path == "/v1/models":
        return path
    if path.startswith("/v1/models/"):
        return "/v1/models/{model}"
    return "/v1/*" if path.startswith("/v1/") else None


def _host(value: str | None) -> Attributes:
    """server.address and server.port as the client named them."""
    if not value:
        return {}
    host, _, port = value[:MAX_TEXT].rpartition(":") if re.search(r":\d{1,5}$", value) else (value[:MAX_TEXT], "", "")
    return {"server.address": host, "server.port": int(port)} if port else {"server.address": host}


def _address(url: str, path: str) -> Attributes:
    """Where an attempt went. Never the query, which may hold secrets."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    full = f"{parts.scheme}://{shown}:{port}{parts.path}{path[:MAX_TEXT]}"
    return {"server.address": host, "server.port": port, "url.full": full}
