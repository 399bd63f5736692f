"""What workers that are gone have answered stays in `/errors` and on the page."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson

from gateway.observe.error_stats import ErrorStats, report_of
from gateway.observe.metrics import Metrics
from gateway.processes.tally import Gone, tally
from policies.outcome import ErrorKind


def told(ok: int, failed: int, clock: Any) -> Any:
    """What a worker of one route tells that has answered so many."""
    metrics, errors = Metrics(("chat",), ("a",)), ErrorStats(clock)
    for kind in [None] * ok + [ErrorKind.OUT_OF_MEMORY] * failed + [ErrorKind.CLIENT_DISCONNECTED]:
        metrics.route("chat").finished(kind, 0.1)
        errors.record(kind, "/v1/completions")
    route: Any = SimpleNamespace(name="chat")
    gateway: Any = SimpleNamespace(
        metrics=metrics,
        services=SimpleNamespace(errors=errors),
        runtime=SimpleNamespace(routes=SimpleNamespace(routes=[route])),
    )
    return orjson.loads(orjson.dumps(tally(gateway)))


def test_workers_that_are_gone_add_up_and_one_that_told_nothing_adds_nothing() -> None:
    now = [1_000_000.0]
    gone = Gone(lambda: now[0])
    for each in (told(3, 1, lambda: now[0]), {}, told(4, 2, lambda: now[0])):
        gone.add(each)
    assert gone.told()["routes"] == {"chat": {"ok": 7, "retries": 0, "errors": {"out_of_memory": 3}}}
    report = report_of([gone.errors()], now[0])
    assert (report["by_type"], report["errors_last_minute"]) == ({"out_of_memory": 3}, 3)
    now[0] += 7200
    report = report_of([gone.errors()], now[0])
    assert (report["by_type"], report["errors_last_hour"]) == ({"out_of_memory": 3}, 0)
