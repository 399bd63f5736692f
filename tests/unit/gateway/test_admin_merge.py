"""Several workers' parts of the page as one."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.admin import merge


def backend(state: str = "closed", **facts: Any) -> dict[str, Any]:
    circuit = {"state": state, "forced": False, "requests": 10, "failures": 2, "retry_after": None}
    known = {
        "name": "a",
        "healthy": True,
        "message": "",
        "in_flight": 1,
        "limit": 8,
        "connections": 2,
        "waiting": 3,
        "kv_cache": 0.5,
        "gpu_memory": None,
        "retry_after": None,
        "lately": None,
    }
    return {**known, "breaker": circuit, **facts}


def merged(*seen: dict[str, Any]) -> dict[str, Any]:
    (one,) = merge.backends([{"backends": [each]} for each in seen])
    return one


def test_one_worker_is_shown_as_it_is() -> None:
    one = merged(backend())
    assert one["breaker"]["seen_by"] is None
    assert (one["in_flight"], one["message"]) == (1, "")


def test_loads_add_up_and_what_the_server_says_of_itself_does_not() -> None:
    one = merged(backend(), backend(waiting=5, kv_cache=None))
    assert (one["in_flight"], one["limit"], one["connections"]) == (2, 16, 4)
    assert (one["waiting"], one["kv_cache"]) == (5, 0.5)
    assert (one["breaker"]["requests"], one["breaker"]["failures"]) == (20, 4)


@pytest.mark.parametrize(
    ("states", "shown", "seen_by"),
    [
        (["closed", "closed"], "closed", None),
        (["open", "open"], "open", None),
        (["closed", "open", "closed"], "open", "1 of 3 workers"),
        (["half_open", "closed"], "half_open", "1 of 2 workers"),
    ],
)
def test_a_circuit_is_shown_at_its_worst_with_how_many_see_it_so(
    states: list[str], shown: str, seen_by: str | None
) -> None:
    circuit = merged(*map(backend, states))["breaker"]
    assert (circuit["state"], circuit["seen_by"]) == (shown, seen_by)


def test_a_backend_that_one_worker_cannot_reach_is_shown_as_down() -> None:
    one = merged(backend(), backend(healthy=False, message="connection refused"))
    assert one["healthy"] is False
    assert one["message"] == "connection refused (as 1 of 2 workers see it)"


def test_percentiles_are_of_all_workers_attempts() -> None:
    times = [{"ms": [10.0] * 19, "failed": 1}, {"ms": [500.0], "failed": 2}]
    assert merged(*(backend(lately=part) for part in times))["lately"] == {
        "ok": 20,
        "failed": 3,
        "p50": 10.0,
        "p95": 500.0,
    }


def route(usable: bool = True, degradation: str | None = None) -> dict[str, Any]:
    return {
        "name": "r",
        "ok": 5,
        "retries": 1,
        "queued": 2,
        "errors": {"out_of_memory": 1},
        "degradation": degradation,
        "tiers": [[{"backend": "a", "model": "m", "usable": usable}]],
    }


def test_routes_counts_add_up_and_their_worst_level_is_shown() -> None:
    (one,) = merge.routes([{"routes": [route(degradation="full")]}, {"routes": [route(False, "minimal")]}], {})
    assert (one["ok"], one["retries"], one["queued"], one["errors"]) == (10, 2, 4, {"out_of_memory": 2})
    assert one["degradation"] == "minimal"
    assert one["tiers"][0][0]["usable"] is False


def test_routes_keep_what_workers_that_are_gone_have_counted() -> None:
    gone = {"r": {"ok": 7, "retries": 2, "errors": {"out_of_memory": 1, "rate_limited": 3}}, "of old": {}}
    (one,) = merge.routes([{"routes": [route()]}], gone)
    assert (one["ok"], one["retries"], one["queued"]) == (12, 3, 2)
    assert one["errors"] == {"out_of_memory": 2, "rate_limited": 3}


def test_health_is_the_worst_of_each_check() -> None:
    good = {"overall_status": "healthy", "checks": {"backends": {"status": "healthy"}}, "critical_failures": []}
    bad = {
        "overall_status": "critical",
        "checks": {"backends": {"status": "critical"}},
        "critical_failures": ["backends"],
    }
    whole = merge.health([good, bad])
    assert whole["overall_status"] == "critical"
    assert whole["checks"]["backends"]["status"] == "critical"
    assert whole["critical_failures"] == ["backends"]
