"""Percentiles out of histograms, samples, and the search through stories."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.admin.history import LENGTH, History, joined, quantile, shown
from gateway.admin.stories import Search, found, lately
from gateway.observe.metrics import Metrics
from gateway.observe.request_log import RequestLog, RequestStory
from policies.outcome import ErrorKind
from tests.support import stories
from tests.support.stories import tried


@pytest.mark.parametrize(
    ("counts", "q", "expected"),
    [
        ([0, 0, 0, 0], 0.5, None),
        ([10, 0, 0, 0], 0.5, 0.5),
        ([0, 10, 0, 0], 0.5, 1.5),
        ([5, 5, 0, 0], 0.5, 1.0),
        ([0, 0, 10, 0], 1.0, 4.0),
        ([0, 0, 0, 10], 0.5, 4.0),
        ([9, 0, 0, 1], 0.95, 4.0),
    ],
)
def test_a_quantile_is_linear_within_its_bucket(counts: list[int], q: float, expected: float | None) -> None:
    assert quantile((1.0, 2.0, 4.0), counts, q) == expected


def test_rates_are_per_second_and_survive_a_reload_that_drops_a_route() -> None:
    metrics, history = Metrics(["chat", "images"], ["a"]), History()
    history.sample(metrics, 100.0, 5.0, in_flight=0, queued=0)
    for _ in range(6):
        metrics.route("chat").finished(None, 0.2, first_token=0.03)
    metrics.route("images").finished(ErrorKind.OUT_OF_MEMORY, 1.0)
    sample = history.sample(metrics, 102.0, 7.0, in_flight=3, queued=1)
    assert (sample["ok"], sample["errors"]) == (3.0, {"out_of_memory": 0.5})
    assert 0.025 < shown([sample])["ttft"]["p50"] <= 0.05
    assert shown([sample])["itl"] == {"p50": None, "p95": None}
    metrics.reload(["images"], ["a"])
    assert history.sample(metrics, 103.0, 8.0, in_flight=0, queued=0)["ok"] == 0.0


def test_rates_do_not_follow_a_clock_that_is_set() -> None:
    metrics, history = Metrics(["chat"], ["a"]), History()
    history.sample(metrics, 100.0, 5.0, in_flight=0, queued=0)
    metrics.route("chat").finished(None, 0.2)
    assert history.sample(metrics, 40.0, 6.0, in_flight=0, queued=0)["ok"] == 1.0


def test_history_is_bounded() -> None:
    metrics, history = Metrics(["chat"], ["a"]), History()
    for second in range(2 * LENGTH):
        history.sample(metrics, float(second), float(second), in_flight=0, queued=0)
    assert len(history.samples) == LENGTH


def story(name: str, error: ErrorKind | None = None, *attempts: tuple[str, ErrorKind | None]) -> RequestStory:
    tries = [tried(backend, kind, ms=12.0) for backend, kind in attempts]
    return stories.story(name, error, *tries, at=1000.0)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["hid", "bad", "good"]),
        ({"outcome": "failed"}, ["bad"]),
        ({"outcome": "hidden"}, ["hid"]),
        ({"outcome": "nonsense", "limit": "-3"}, ["hid", "bad", "good"]),
        ({"q": "BACKEND-B"}, ["hid"]),
        ({"q": "out_of_memory"}, ["bad"]),
        ({"q": "GOOD"}, ["good"]),
        ({"q": "nowhere"}, []),
        ({"limit": "1"}, ["hid"]),
    ],
)
def test_stories_are_found_by_text_and_outcome(query: dict[str, str], expected: list[str]) -> None:
    log = RequestLog()
    log.add(story("good", None, ("backend-a", None)))
    log.add(story("bad", ErrorKind.OUT_OF_MEMORY, ("backend-a", ErrorKind.OUT_OF_MEMORY)))
    log.add(story("hid", None, ("backend-a", ErrorKind.GENERATION_FAILED), ("backend-b", None)))
    shown = found(log, Search.of(query), {"chat": "p2c"})
    assert [each["correlation_id"] for each in shown] == expected
    assert all("p2c" in attempt["because"] for each in shown for attempt in each["attempts"])


def test_a_failure_washed_away_by_good_requests_is_still_found() -> None:
    log = RequestLog(capacity=3)
    log.add(story("bad", ErrorKind.OUT_OF_MEMORY))
    for number in range(5):
        log.add(story(f"good-{number}"))
    assert [each["correlation_id"] for each in found(log, Search(text="bad"), {})] == ["bad"]


def test_a_client_that_left_is_no_failure() -> None:
    log = RequestLog()
    log.add(story("left", ErrorKind.CLIENT_DISCONNECTED, ("a", ErrorKind.GENERATION_FAILED)))
    assert found(log, Search(outcome="failed"), {}) == []
    assert found(log, Search(outcome="hidden"), {}) == []
    assert [each["correlation_id"] for each in found(log, Search(), {})] == ["left"]


def test_latencies_are_of_recent_attempts_by_backend() -> None:
    log = RequestLog()
    log.add(story("one", None, ("a", ErrorKind.GENERATION_FAILED), ("b", None)))
    assert lately(log, since=999.0) == {"a": {"ms": [], "failed": 1}, "b": {"ms": [12.0], "failed": 0}}
    assert lately(log, since=1001.0) == {}


def worker_samples(start: float, requests: int, first_token: float) -> list[dict[str, Any]]:
    """Three samples a second apart of a worker that finishes so many requests a second."""
    metrics, history = Metrics(["chat"], ["a"]), History()
    samples = []
    for second in range(3):
        for _ in range(requests if second else 0):
            metrics.route("chat").finished(None, 1.0, first_token=first_token)
        samples.append(history.sample(metrics, start + second, float(second), in_flight=requests, queued=1))
    return samples


def test_several_workers_samples_are_added_moment_by_moment_and_percentiles_are_of_all_requests() -> None:
    quick, slow = worker_samples(100.0, 30, 0.008), worker_samples(100.4, 10, 30.0)
    whole = list(joined(quick, [slow]))
    assert [each["at"] for each in whole] == [100.0, 101.0, 102.0]
    assert [each["ok"] for each in whole] == [0.0, 40.0, 40.0]
    assert [(each["in_flight"], each["queued"]) for each in whole] == [(40, 2)] * 3
    assert whole[-1]["ttft"]["p50"] < 0.01  # three of four requests: no mean of two medians says that
    assert whole[-1]["ttft"]["p95"] > 20


def test_a_worker_that_is_younger_or_has_stood_still_is_not_counted_where_it_has_no_sample() -> None:
    old, young = worker_samples(100.0, 5, 0.01), worker_samples(102.0, 7, 0.01)
    assert [each["in_flight"] for each in joined(old, [young])] == [5, 5, 12]
    assert list(joined(old, [[]])) == [shown([each]) for each in old]
