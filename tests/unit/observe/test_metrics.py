from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from gateway.observe.exposition import FAMILIES, OPENMETRICS, PROMETHEUS, expose, merge, wants_openmetrics
from gateway.observe.metrics import NO_ROUTE, Histogram, Metrics, StateMetrics
from policies.outcome import ErrorKind

OPENMETRICS_ACCEPT = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
DOC = Path(__file__).parents[3] / "docs" / "metrics.md"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(["chat", "images"], ["llama-a", "sdxl"], start_time=1000.0)


def samples(metrics: Metrics, accept: str | None = None) -> dict[tuple[str, frozenset[str]], float]:
    """The scraped values by sample name and label values."""
    kind, body = metrics.text(accept)
    parse = parse_openmetrics if kind == OPENMETRICS else parse_prometheus
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in parse(body.decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, *labels: str) -> float:
    return samples(metrics)[name, frozenset(labels)]


def fill(metrics: Metrics) -> None:
    """Touches every family."""
    metrics.state = StateMetrics()
    metrics.discovered = lambda: {"a": 2}
    chat = metrics.route("chat")
    chat.finished(
        None, 0.2, overhead=0.001, first_token=0.1, prompt_tokens=5, completion_tokens=9, correlation_id="c-1"
    )
    chat.interrupted[ErrorKind.GENERATION_FAILED] += 1
    metrics.attempts("chat", "llama-a").judged(ErrorKind.OUT_OF_MEMORY)
    metrics.endpoint("llama-a").bind(
        breaker_state=lambda: "half_open",
        in_flight=lambda: 3,
        limit=lambda: 20,
        healthy=lambda: False,
        service=lambda: "draining",
    )
    metrics.endpoint("llama-a").probe_duration = 0.25
    metrics.responded(200)


def test_every_family_is_scraped_in_both_formats(metrics: Metrics) -> None:
    fill(metrics)
    for accept in (None, OPENMETRICS_ACCEPT):
        kind, body = metrics.text(accept)
        parse = parse_openmetrics if kind == OPENMETRICS else parse_prometheus
        found = {family.name: family for family in parse(body.decode())}
        for name, family in FAMILIES.items():
            assert found[name.removesuffix("_total")].type == family.kind, name
            assert found[name.removesuffix("_total")].documentation == family.help


def test_a_finished_request_is_counted_once_under_its_outcome(metrics: Metrics) -> None:
    route = metrics.route("chat")
    route.finished(None, 1.0, prompt_tokens=5, completion_tokens=9)
    route.finished(ErrorKind.MODEL_OVERLOADED, 0.1)
    assert value(metrics, "seawall_requests_total", "chat", "ok") == 1
    assert value(metrics, "seawall_requests_total", "chat", "model_overloaded") == 1
    assert value(metrics, "seawall_errors_total", "chat", "model_overloaded") == 1
    assert value(metrics, "seawall_errors_total", "chat", "internal_error") == 0
    assert value(metrics, "seawall_tokens_total", "chat", "prompt") == 5
    assert value(metrics, "seawall_tokens_total", "chat", "completion") == 9
    assert value(metrics, "seawall_request_duration_seconds_count", "chat") == 2
    assert value(metrics, "seawall_request_duration_seconds_sum", "chat") == pytest.approx(1.1)
    assert value(metrics, "seawall_requests_total", "images", "ok") == 0


def test_a_client_that_left_is_no_error(metrics: Metrics) -> None:
    metrics.route("chat").finished(ErrorKind.CLIENT_DISCONNECTED, 0.1)
    assert value(metrics, "seawall_client_disconnects_total", "chat") == 1
    assert ("seawall_errors_total", frozenset({"chat", "client_disconnected"})) not in samples(metrics)


@pytest.mark.parametrize("name", [None, "", "no-such-model", "../../etc/passwd", "a" * 10_000])
def test_unknown_names_fall_into_one_route(metrics: Metrics, name: str | None) -> None:
    before = len(samples(metrics))
    metrics.route(name).finished(None, 0.1)
    assert value(metrics, "seawall_requests_total", NO_ROUTE, "ok") == 1
    assert len(samples(metrics)) == before


def test_names_that_a_reload_took_away_are_counted_for_nobody(metrics: Metrics) -> None:
    before = samples(metrics).keys()
    for route, endpoint in (("gone", "sdxl"), ("chat", "gone")):
        metrics.attempts(route, endpoint).judged(None)
    assert samples(metrics).keys() == before
    with pytest.raises(KeyError):
        metrics.endpoint("gone")


def test_attempts_are_counted_by_route_backend_and_outcome(metrics: Metrics) -> None:
    for failure in (None, None, ErrorKind.OUT_OF_MEMORY):
        metrics.attempts("chat", "llama-a").judged(failure)
    metrics.attempts("chat", "llama-a").fallbacks += 1
    assert value(metrics, "seawall_attempts_total", "chat", "llama-a", "ok") == 2
    assert value(metrics, "seawall_attempts_total", "chat", "llama-a", "out_of_memory") == 1
    assert value(metrics, "seawall_fallbacks_total", "chat", "llama-a") == 1


@pytest.mark.parametrize(
    ("status", "code"), [(200, "200"), (599, "599"), (0, "other"), (99, "other"), (12345, "other")]
)
def test_responses_are_counted_by_status_and_nothing_else(metrics: Metrics, status: int, code: str) -> None:
    metrics.responded(status)
    assert value(metrics, "seawall_http_responses_total", code) == 1


def test_gauges_are_read_from_their_sources_at_the_scrape(metrics: Metrics) -> None:
    state, running = ["closed"], [1]
    metrics.endpoint("sdxl").bind(breaker_state=lambda: state[0], in_flight=lambda: running[0], healthy=lambda: True)
    assert value(metrics, "seawall_endpoint_breaker_state", "sdxl") == 0
    state[0], running[0] = "open", 7
    assert value(metrics, "seawall_endpoint_breaker_state", "sdxl") == 2
    assert value(metrics, "seawall_endpoint_in_flight", "sdxl") == 7
    assert value(metrics, "seawall_endpoint_healthy", "sdxl") == 1
    assert ("seawall_endpoint_in_flight", frozenset({"llama-a"})) not in samples(metrics)


def test_a_reload_keeps_the_numbers_of_names_that_stay(metrics: Metrics) -> None:
    fill(metrics)
    route, attempts = metrics.route("chat"), metrics.attempts("chat", "llama-a")
    metrics.reload(["chat", "new"], ["llama-a"])
    assert metrics.route("chat") is route
    assert metrics.attempts("chat", "llama-a") is attempts
    assert value(metrics, "seawall_requests_total", "new", "ok") == 0
    assert not [key for key in samples(metrics) if key[1] & {"images", "sdxl"}]


def test_numbers_of_a_name_that_left_start_at_zero_when_it_comes_back(metrics: Metrics) -> None:
    fill(metrics)
    metrics.reload(["images"], ["sdxl"])
    metrics.reload(["chat", "images"], ["llama-a", "sdxl"])
    assert value(metrics, "seawall_requests_total", "chat", "ok") == 0
    assert metrics.attempts("chat", "llama-a").failures[ErrorKind.OUT_OF_MEMORY] == 0


def test_histogram_bounds_are_inclusive() -> None:
    histogram = Histogram((1.0, 2.0))
    for observed in (0.5, 1.0, 1.5, 2.0, 2.1):
        histogram.observe(observed)
    assert histogram.counts == [2, 2, 1]


@given(st.lists(st.floats(0, 1e6), max_size=50))
def test_scraped_buckets_are_cumulative_and_end_with_the_count(observed: list[float]) -> None:
    metrics = Metrics(["r"], [])
    for seconds in observed:
        metrics.route("r").duration.observe(seconds)
    _, body = metrics.text(OPENMETRICS_ACCEPT)
    family = next(f for f in parse_openmetrics(body.decode()) if f.name == "seawall_request_duration_seconds")
    for bucket in (s for s in family.samples if s.name.endswith("_bucket") and s.labels["route"] == "r"):
        assert bucket.value == sum(seconds <= float(bucket.labels["le"]) for seconds in observed)


def test_exemplars_carry_the_correlation_id_in_openmetrics_only(metrics: Metrics) -> None:
    metrics.route("chat").finished(None, 0.2, correlation_id="corr-1")
    metrics.route("chat").finished(None, 30.0, correlation_id="x" * 128)  # longer than OpenMetrics allows
    _, body = metrics.text(OPENMETRICS_ACCEPT)
    exemplars = [
        sample.exemplar for family in parse_openmetrics(body.decode()) for sample in family.samples if sample.exemplar
    ]
    assert [(exemplar.labels, exemplar.value) for exemplar in exemplars] == [({"correlation_id": "corr-1"}, 0.2)]
    assert b"corr-1" not in metrics.text()[1]


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        (OPENMETRICS_ACCEPT, True),
        ("Application/OpenMetrics-Text", True),
        ("text/plain;q=0.5, application/openmetrics-text; version=0.0.1", True),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-textual", False),
    ],
)
def test_the_accept_header_chooses_the_format(metrics: Metrics, accept: str | None, openmetrics: bool) -> None:
    assert wants_openmetrics(accept) is openmetrics
    assert metrics.text(accept)[0] == (OPENMETRICS if openmetrics else PROMETHEUS)


@given(st.text(min_size=1, max_size=20).filter(lambda name: name != NO_ROUTE))
def test_any_configured_name_is_escaped(name: str) -> None:
    metrics = Metrics([name], [name])
    metrics.route(name).finished(None, 0.1)
    for accept, parse in ((None, parse_prometheus), (OPENMETRICS_ACCEPT, parse_openmetrics)):
        lines = metrics.text(accept)[1].decode().split("\n")
        assert all(line.startswith(("#", "seawall_", "process_")) for line in lines if line)
        family = next(f for f in parse("\n".join(lines)) if f.name == "seawall_retries")
        assert name in {sample.labels["route"] for sample in family.samples}


def test_workers_are_merged_through_json() -> None:
    workers = [Metrics(["chat"], ["a"], start_time=start) for start in (2000.0, 1000.0)]
    for worker, (state, healthy) in zip(workers, (("open", True), ("closed", False)), strict=True):
        worker.route("chat").finished(None, 0.3, correlation_id="c")
        worker.route("chat").in_flight = 2
        worker.endpoint("a").bind(
            breaker_state=lambda state=state: state, in_flight=lambda: 4, healthy=lambda healthy=healthy: healthy
        )
    workers[1].responded(404)
    _, body = expose(merge(json.loads(json.dumps(worker.snapshot())) for worker in workers))
    found = {
        (s.name, *s.labels.values()): s.value for family in parse_prometheus(body.decode()) for s in family.samples
    }
    assert found["seawall_requests_total", "chat", "ok"] == 2
    assert found["seawall_request_duration_seconds_count", "chat"] == 2
    assert found["seawall_request_duration_seconds_sum", "chat"] == pytest.approx(0.6)
    assert found["seawall_requests_in_flight", "chat"] == 4
    assert found["seawall_endpoint_in_flight", "a"] == 8
    assert found["seawall_endpoint_breaker_state", "a"] == 2
    assert found["seawall_endpoint_healthy", "a"] == 0
    assert found[("seawall_start_time_seconds",)] == 1000
    assert found["seawall_http_responses_total", "404"] == 1


def test_merging_survives_a_worker_of_another_version(metrics: Metrics) -> None:
    fill(metrics)
    own = metrics.snapshot()
    other = json.loads(json.dumps(own))
    other["seawall_gone_total"] = [[["x"], 1]]
    other["seawall_overhead_seconds"] = [
        [labels, {"bounds": [1.0], "counts": [5, 5], "sum": 9.0, "exemplars": [None, None]}]
        for labels, _ in other["seawall_overhead_seconds"]
    ]
    merged = merge([own, other])
    assert "seawall_gone_total" not in merged
    assert merged["seawall_overhead_seconds"] == own["seawall_overhead_seconds"]


def test_the_document_names_every_family_with_its_labels() -> None:
    rows = set()
    for family in FAMILIES.values():
        labels = ", ".join(f"`{label}`" for label in family.labels) or "-"
        rows.add(f"| `{family.name}` | {family.kind} | {labels} | {family.help} |")
    assert {line for line in DOC.read_text("utf-8").splitlines() if line.startswith("| `")} == rows
