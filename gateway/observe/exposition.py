"""The metric families, and how snapshots of them become one text in Prometheus' or OpenMetrics' format.

Written out here and not by prometheus-client, whose OpenMetrics encoder takes about five times as long: a scrape runs
on the event loop that relays tokens. The tests read the text with prometheus-client's parsers.
Formats: https://prometheus.io/docs/instrumenting/exposition_formats/ and https://github.com/prometheus/OpenMetrics
(version 1.0.0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_SPECIAL = {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}
#: OpenMetrics allows 128 characters in an exemplar's label names and values together.
_MAX_EXEMPLAR = 128 - len("correlation_id")


class HistogramValue(TypedDict):
    """Counts per bucket (not cumulated, the last one has no upper bound) and the latest exemplar of each."""

    bounds: list[float]
    counts: list[int]
    sum: float
    exemplars: list[tuple[str, float] | None]  # correlation ID and the value observed


Value = float | HistogramValue
#: Samples of each family by name, as (label values, value). JSON keeps it as it is.
Snapshot = dict[str, list[tuple[Sequence[str], Any]]]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family. `across` says what several workers' values of one gauge make together."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    across: Callable[[float, float], float] = float.__add__


_ROUTE = ("route",)
_BACKEND = ("backend",)
_FAMILIES = (
    Family(
        "seawall_requests_total",
        "counter",
        "Requests finished, by outcome: ok or the error_type of the answer.",
        ("route", "outcome"),
    ),
    Family(
        "seawall_errors_total",
        "counter",
        "Requests answered with an error, by error_type; clients that went away are not among them.",
        ("route", "error_type"),
    ),
    Family("seawall_client_disconnects_total", "counter", "Requests whose client left before its answer.", _ROUTE),
    Family("seawall_requests_in_flight", "gauge", "Requests under way.", _ROUTE),
    Family("seawall_request_duration_seconds", "histogram", "From a request's head to the end of its answer.", _ROUTE),
    Family(
        "seawall_time_to_first_token_seconds",
        "histogram",
        "From a request's head to the first content of its answer: the first token of a stream.",
        _ROUTE,
    ),
    Family(
        "seawall_time_per_output_token_seconds",
        "histogram",
        "Mean time between a stream's tokens after its first, where its backend says how many there were.",
        _ROUTE,
    ),
    Family(
        "seawall_overhead_seconds",
        "histogram",
        "Time a request spent in Seawall itself, without backends and waits.",
        _ROUTE,
    ),
    Family("seawall_tokens_total", "counter", "Tokens as backends counted them.", ("route", "kind")),
    Family(
        "seawall_attempts_total",
        "counter",
        "Attempts at backends, by outcome: ok, an error_type, or beaten when another one answered first.",
        ("route", "backend", "outcome"),
    ),
    Family("seawall_retries_total", "counter", "Attempts after a request's first one.", _ROUTE),
    Family(
        "seawall_fallbacks_total", "counter", "Requests answered by a backend of a fallback tier.", ("route", "backend")
    ),
    Family("seawall_retry_budget_exhausted_total", "counter", "Retries not made because the budget was spent.", _ROUTE),
    Family("seawall_queue_length", "gauge", "Requests waiting for a free slot of an endpoint.", _ROUTE),
    Family(
        "seawall_queue_wait_seconds",
        "histogram",
        "How long requests that had to wait for a free slot waited, whether they got it or not.",
        _ROUTE,
    ),
    Family(
        "seawall_shed_total",
        "counter",
        "Requests that could not wait for a free slot, or waited in vain, by reason.",
        ("route", "reason"),
    ),
    Family("seawall_hedges_total", "counter", "Hedged attempts: started because the first was slow to begin.", _ROUTE),
    Family("seawall_stale_answers_total", "counter", "Earlier answers sent because everything failed.", _ROUTE),
    Family("seawall_static_answers_total", "counter", "Static answers sent because everything failed.", _ROUTE),
    Family(
        "seawall_degradation_level",
        "gauge",
        "How far requests are made smaller for pressure: 0 full, 1 reduced, 2 minimal.",
        _ROUTE,
        across=max,
    ),
    Family(
        "seawall_reduced_total",
        "counter",
        "Requests made smaller, by cause: degraded, or an attempt after out_of_memory.",
        ("route", "cause"),
    ),
    Family(
        "seawall_faults_injected_total",
        "counter",
        "Faults made on purpose in attempts: abort or delay.",
        ("route", "fault"),
    ),
    Family(
        "seawall_wasted_seconds_total",
        "counter",
        "Time that backends spent on attempts whose answer nobody got, by cause.",
        ("route", "cause"),
    ),
    Family(
        "seawall_wasted_tokens_total",
        "counter",
        "Tokens generated for nobody, as far as they were seen, by cause.",
        ("route", "cause"),
    ),
    Family(
        "seawall_stream_resumes_total",
        "counter",
        "Streams that broke after their first content, by what became of them: gone on (token_ids, replay) or not.",
        ("route", "outcome"),
    ),
    Family(
        "seawall_stream_interrupted_total",
        "counter",
        "Streams that ended in an error after their first content, by its error_type.",
        ("route", "reason"),
    ),
    Family(
        "seawall_endpoint_breaker_state",
        "gauge",
        "Circuit breaker: 0 closed, 1 half open, 2 open.",
        _BACKEND,
        across=max,
    ),
    Family(
        "seawall_endpoint_breaker_transitions_total",
        "counter",
        "Changes of the circuit breaker, by the state it came to.",
        ("backend", "to"),
    ),
    Family("seawall_endpoint_in_flight", "gauge", "Attempts under way.", _BACKEND),
    Family(
        "seawall_endpoint_concurrency_limit",
        "gauge",
        "Attempts that may be under way at a time, as the adaptive limit has it now.",
        _BACKEND,
    ),
    Family(
        "seawall_endpoint_healthy",
        "gauge",
        "1 if active probes find the endpoint usable, else 0.",
        _BACKEND,
        across=min,
    ),
    Family(
        "seawall_endpoint_service",
        "gauge",
        "What operators have said: 0 active, 1 draining, 2 ejected.",
        _BACKEND,
        across=max,
    ),
    Family("seawall_endpoint_probe_duration_seconds", "gauge", "How long the latest probe took.", _BACKEND, across=max),
    Family("seawall_http_responses_total", "counter", "Answers sent to clients, by HTTP status.", ("code",)),
    Family("seawall_log_lines_dropped_total", "counter", "Log lines lost because their reader was too slow."),
    Family(
        "seawall_reloads_total",
        "counter",
        "Changed configurations that were taken or refused.",
        ("result",),
        across=max,
    ),
    Family(
        "seawall_last_reload_successful",
        "gauge",
        "1 if the configuration in effect is the file's, 0 if a changed one was refused since.",
        across=min,
    ),
    Family(
        "seawall_alert_messages_total",
        "counter",
        "Messages of alerts.targets, for each target: sent, failed, or dropped for newer ones.",
        ("result",),
    ),
    Family(
        "seawall_trace_spans_total",
        "counter",
        "Spans by what became of them: exported, dropped (the queue was full) or failed (the collector was away).",
        ("result",),
    ),
    Family("seawall_discovered_endpoints", "gauge", "Addresses found behind a backend's name.", _BACKEND, across=max),
    Family("seawall_state_up", "gauge", "1 if state is shared with other replicas, 0 if Redis is away.", across=min),
    Family("seawall_state_replicas", "gauge", "Processes that share the state, this one among them.", across=max),
    Family("seawall_state_exchange_seconds", "gauge", "How long the latest exchange with Redis took.", across=max),
    Family("seawall_state_exchanges_total", "counter", "Exchanges with Redis: ok or failed.", ("result",)),
    Family("seawall_workers", "gauge", "Worker processes that serve.", across=max),
    Family("seawall_worker_restarts_total", "counter", "Worker processes started again after one died.", across=max),
    Family("seawall_build_info", "gauge", "Always 1; the version is in the label.", ("version",), across=max),
    Family("seawall_start_time_seconds", "gauge", "When Seawall started, in seconds since the epoch.", across=min),
    Family("process_cpu_seconds_total", "counter", "CPU time spent, user and system."),
    Family("process_resident_memory_bytes", "gauge", "Memory in RAM."),
    Family("process_virtual_memory_bytes", "gauge", "Memory mapped."),
    Family("process_open_fds", "gauge", "Open file descriptors."),
    Family("process_max_fds", "gauge", "File descriptors allowed."),
    Family("process_start_time_seconds", "gauge", "When the process started, in seconds since the epoch.", across=min),
)
#: Every family, in the order of the exposition.
FAMILIES = {family.name: family for family in _FAMILIES}


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """One snapshot of several workers': counters and histograms are added, gauges joined as their family says.

    A histogram whose bounds differ from the first one's is left out (a worker of another version, under way out).
    """
    merged: dict[str, dict[tuple[str, ...], Any]] = {}
    for snapshot in snapshots:
        for name, samples in snapshot.items():
            family = FAMILIES.get(name)
            if family is None:
                continue
            known = merged.setdefault(name, {})
            for labels, value in samples:
                at = tuple(labels)
                known[at] = _join(family, known[at], value) if at in known else value
    return {name: list(samples.items()) for name, samples in merged.items()}


def _join(family: Family, a: Any, b: Any) -> Any:
    if family.kind != "histogram":
        return family.across(float(a), float(b))
    if a["bounds"] != b["bounds"]:
        return a
    return HistogramValue(
        bounds=a["bounds"],
        counts=[x + y for x, y in zip(a["counts"], b["counts"], strict=True)],
        sum=a["sum"] + b["sum"],
        exemplars=[y or x for x, y in zip(a["exemplars"], b["exemplars"], strict=True)],
    )


def wants_openmetrics(accept: str | None) -> bool:
    """Whether the scraper takes OpenMetrics (Prometheus does, and keeps the exemplars then)."""
    for media_range in (accept or "").split(","):
        media, *parameters = (part.strip() for part in media_range.lower().split(";"))
        if media == "application/openmetrics-text":
            return "q=0" not in parameters
    return False


def expose(snapshot: Snapshot, accept: str | None = None) -> tuple[str, bytes]:
    """(content type, text) of a snapshot, in the format that the `Accept` header asks for."""
    openmetrics = wants_openmetrics(accept)
    lines: list[str] = []
    for family in _FAMILIES:
        samples = snapshot.get(family.name)
        if samples:
            lines += _header(family, openmetrics)
            for labels, value in samples:
                pairs = ",".join(f'{name}="{_escaped(text)}"' for name, text in zip(family.labels, labels, strict=True))
                if family.kind == "histogram":
                    lines += _buckets(family.name, pairs, value, openmetrics)
                else:
                    lines.append(
                        f"{family.name}{{{pairs}}} {_number(value)}" if pairs else f"{family.name} {_number(value)}"
                    )
    if openmetrics:
        lines.append("# EOF")
    return OPENMETRICS if openmetrics else PROMETHEUS, ("\n".join(lines) + "\n").encode("utf-8")


def _header(family: Family, openmetrics: bool) -> Iterator[str]:
    name = family.name.removesuffix("_total") if openmetrics else family.name
    yield f"# HELP {name} {family.help}"
    yield f"# TYPE {name} {family.kind}"
    if openmetrics and name.endswith(("_seconds", "_bytes")):
        yield f"# UNIT {name} {name.rpartition('_')[2]}"


def _buckets(name: str, pairs: str, value: HistogramValue, openmetrics: bool) -> Iterator[str]:
    prefix = f"{pairs}," if pairs else ""
    total = 0
    bounds = [*map(_number, value["bounds"]), "+Inf"]
    for bound, count, exemplar in zip(bounds, value["counts"], value["exemplars"], strict=True):
        total += count
        line = f'{name}_bucket{{{prefix}le="{bound}"}} {total}'
        if openmetrics and exemplar is not None and len(exemplar[0]) <= _MAX_EXEMPLAR:
            line += f' # {{correlation_id="{_escaped(exemplar[0])}"}} {_number(exemplar[1])}'
        yield line
    labels = f"{{{pairs}}}" if pairs else ""
    yield f"{name}_count{labels} {total}"
    yield f"{name}_sum{labels} {_number(value['sum'])}"


def _number(value: float) -> str:
    text = repr(float(value))
    return _SPECIAL.get(text, text)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
