"""Traces: joins the client's trace, tells the backends, and has a background thread send the spans by OTLP/HTTP.

Spans are made when a request is over, of what its context holds anyway, so a request under way pays for nothing but
the `traceparent` of its attempts. OpenTelemetry (extra `otel`) is imported when tracing is configured. Its sampler,
resource and exporter are used, and so the standard environment variables hold: `OTEL_TRACES_SAMPLER`,
`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_EXPORTER_OTLP_HEADERS`.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gateway import __version__
from gateway.identity import trace_context
from gateway.observe.spans import Span, Trace, spans_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from gateway.context import RequestContext

#: Spans that wait for the collector, at most; further ones are dropped and counted.
MAX_QUEUE = 4096
#: Spans sent in one request, at most, and seconds between requests.
BATCH = 512
INTERVAL = 1.0
#: Seconds that one batch may take, repeats included; and that the last ones get when the process stops.
SEND_TIMEOUT = 10.0
CLOSE_TIMEOUT = 3.0
RESULTS = ("exported", "dropped", "failed")


class Tracing:
    """Traces of one process. `endpoint` is the collector's base address, or the whole one ending in `/v1/traces`.

    Raises ImportError where OpenTelemetry is not installed.
    """

    def __init__(
        self, endpoint: str, log: Any, getrandbits: Callable[[int], int] = random.getrandbits, queue: int = MAX_QUEUE
    ) -> None:
        from opentelemetry.sdk.trace import TracerProvider

        self._sampler = TracerProvider(shutdown_on_exit=False).sampler
        self._bits = getrandbits
        self._exporter = _Exporter(traces_url(endpoint), log, queue)
        self.counts = self._exporter.counts

    def begin(self, headers: dict[bytes, bytes]) -> Trace:
        """Where a request stands: in the client's trace, as sampled as that is, or at the root of a new one."""
        from opentelemetry.context import Context
        from opentelemetry.sdk.trace.sampling import Decision
        from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, set_span_in_context

        given = trace_context(headers)
        context = Context()
        trace_id, parent = self._bits(128) or 1, None
        if given is not None:
            trace_id, parent, sampled = given
            remote = SpanContext(trace_id, parent, is_remote=True, trace_flags=TraceFlags(int(sampled)))
            context = set_span_in_context(NonRecordingSpan(remote), context)
        result = self._sampler.should_sample(context, trace_id, "request", SpanKind.SERVER)
        return Trace(trace_id, self._bits(64) or 1, parent, result.decision is Decision.RECORD_AND_SAMPLE)

    def finished(self, ctx: RequestContext, now: float, wall: float) -> None:
        """Hands over the spans of a request that is over; `now` is loop time, `wall` seconds since the epoch."""
        trace = ctx.trace if ctx.trace is not None else self.begin(ctx.request.headers)
        if trace.sampled:
            self._exporter.offer(spans_of(ctx, trace, now, wall))

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Sends what waits, for at most so many seconds. Blocks."""
        self._exporter.close(timeout)


def configure(endpoint: str | None, log: Any) -> Tracing | None:
    """Tracing to this collector. None without one, and, with an error in the log, where the extra is missing."""
    if endpoint is None:
        return None
    try:
        return Tracing(endpoint, log)
    except ImportError:
        log.error("tracing_off", reason="OpenTelemetry is not installed", cure="pip install 'seawall[otel]'")
        return None


def traces_url(endpoint: str) -> str:
    """The address that traces are posted to (OTLP/HTTP specification: base address, then `/v1/traces`)."""
    base = endpoint.rstrip("/")
    return base if base.endswith("/v1/traces") else f"{base}/v1/traces"


class _Exporter:
    """A bounded queue and the thread that empties it. Offering never waits and never wakes the thread for one span."""

    def __init__(self, url: str, log: Any, limit: int) -> None:
        import logging

        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource

        # It reports every repeat of every batch; one line when the collector goes and one when it is back is enough.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        resource = Resource.create({"service.version": __version__})
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "seawall"}))
        self.counts = dict.fromkeys(RESULTS, 0)
        self._resource = resource
        self._sender: Any = OTLPSpanExporter(endpoint=url, timeout=SEND_TIMEOUT)
        self._log = log
        self._limit = limit
        self._waiting: deque[Span] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._away = False
        self._thread = threading.Thread(target=self._run, name="seawall-otlp", daemon=True)
        self._thread.start()

    def offer(self, spans: list[Span]) -> None:
        if len(self._waiting) + len(spans) > self._limit:
            self.counts["dropped"] += len(spans)
            return
        self._waiting.extend(spans)
        if len(self._waiting) >= BATCH:
            self._wake.set()

    def close(self, timeout: float) -> None:
        self._closing = True
        self._wake.set()
        self._thread.join(timeout)
        self._sender.shutdown()

    def _run(self) -> None:
        while not (self._closing and not self._waiting):
            self._wake.wait(INTERVAL)
            self._wake.clear()
            while self._waiting:
                self._send([self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))])

    def _send(self, batch: list[Span]) -> None:
        from opentelemetry.sdk.trace.export import SpanExportResult

        try:
            done = self._sender.export([_readable(span, self._resource) for span in batch]) is SpanExportResult.SUCCESS
        except Exception as error:
            self._log.error("traces_failed", reason=type(error).__name__)
            done = False
        self.counts["exported" if done else "failed"] += len(batch)
        if self._away is done:
            self._away = not done
            if done:
                self._log.info("traces_collector_back")
            else:
                self._log.warning("traces_collector_away", lost=len(batch))


def _readable(span: Span, resource: Any) -> ReadableSpan:
    """The span as OpenTelemetry's exporters take it."""
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    flags = TraceFlags(TraceFlags.SAMPLED)
    parent = None
    if span.parent is not None:
        parent = SpanContext(span.trace_id, span.parent, is_remote=span.parent_is_remote, trace_flags=flags)
    return ReadableSpan(
        name=span.name,
        context=SpanContext(span.trace_id, span.span_id, is_remote=False, trace_flags=flags),
        parent=parent,
        resource=resource,
        attributes=span.attributes,
        events=[Event(event.name, event.attributes, event.at) for event in span.events],
        kind=SpanKind.SERVER if span.server else SpanKind.CLIENT,
        status=Status(StatusCode.ERROR, span.error) if span.error is not None else Status(StatusCode.UNSET),
        start_time=span.start,
        end_time=span.end,
        instrumentation_scope=InstrumentationScope("seawall", __version__),
    )
