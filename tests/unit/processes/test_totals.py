"""Counters of workers that are gone stay in the sums."""

from __future__ import annotations

from gateway.observe.exposition import Snapshot, merge
from gateway.observe.metrics import Metrics
from gateway.processes.totals import Totals


def worker(ok: int, routes: tuple[str, ...] = ("chat",), backends: tuple[str, ...] = ("a",)) -> Metrics:
    metrics = Metrics(routes, backends)
    for _ in range(ok):
        metrics.route("chat").finished(None, 0.1)
        metrics.attempts("chat", "a").judged(None)
    return metrics


def value(snapshot: Snapshot, family: str, *labels: str) -> float | None:
    return next((float(value) for at, value in snapshot[family] if tuple(at) == labels), None)


def test_a_sum_never_falls_when_a_worker_goes() -> None:
    totals = Totals()
    living, leaving = worker(3), worker(4)
    before = merge((living.snapshot(), leaving.snapshot(), totals.of([living.snapshot(), leaving.snapshot()])))
    totals.retire(leaving.snapshot())
    after = merge((living.snapshot(), totals.of([living.snapshot()])))
    for family, labels in (
        ("seawall_requests_total", ("chat", "ok")),
        ("seawall_attempts_total", ("chat", "a", "ok")),
    ):
        assert value(before, family, *labels) == value(after, family, *labels) == 7
    durations = {tuple(at): found for at, found in after["seawall_request_duration_seconds"]}
    assert sum(durations["chat",]["counts"]) == 7


def test_gauges_go_with_their_worker() -> None:
    totals = Totals()
    gone = worker(1)
    gone.route("chat").in_flight = 5
    totals.retire(gone.snapshot())
    assert "seawall_requests_in_flight" not in totals.of([worker(0).snapshot()])


def test_names_that_no_worker_has_any_more_are_forgotten() -> None:
    totals = Totals()
    totals.retire(worker(2).snapshot())
    other = Metrics(["mail"], ["b"]).snapshot()
    assert value(totals.of([other]), "seawall_requests_total", "chat", "ok") is None
    assert value(totals.of([worker(0).snapshot()]), "seawall_requests_total", "chat", "ok") is None
