from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.observe.error_stats import ErrorStats, operation_for
from policies.outcome import ErrorKind

OVERLOADED, TIMEOUT = ErrorKind.MODEL_OVERLOADED, ErrorKind.INFERENCE_TIMEOUT
OOM = ErrorKind.OUT_OF_MEMORY
CHAT, IMAGES = "/v1/chat/completions", "/v1/images/generations"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stats(clock: Clock) -> ErrorStats:
    return ErrorStats(clock)


def record(stats: ErrorStats, count: int, error: ErrorKind | None = OVERLOADED, path: str = CHAT) -> None:
    for _ in range(count):
        stats.record(error, path)


def test_nothing_yet(stats: ErrorStats) -> None:
    assert stats.report() == {
        "total_errors": 0,
        "errors_last_minute": 0,
        "errors_last_hour": 0,
        "requests_last_hour": 0,
        "error_rate_per_minute": 0.0,
        "error_rate_per_hour": 0.0,
        "error_rate": 0.0,
        "by_type": {},
        "top_patterns": [],
        "spikes": [],
        "timestamp": "1970-01-12T13:46:40.000Z",
    }


def test_rates_are_over_the_last_minute_and_hour(stats: ErrorStats, clock: Clock) -> None:
    record(stats, 3)
    clock.now += 30
    record(stats, 2, TIMEOUT)
    record(stats, 5, None)
    report = stats.report()
    assert (report["errors_last_minute"], report["errors_last_hour"], report["total_errors"]) == (5, 5, 5)
    assert report["error_rate"] == 0.5
    clock.now += 45  # the first three are older than a minute
    assert stats.report()["error_rate_per_minute"] == 2.0
    clock.now += 3600
    report = stats.report()
    assert (report["errors_last_hour"], report["error_rate"], report["total_errors"]) == (0, 0.0, 5)


def test_patterns_are_the_commonest_first(stats: ErrorStats, clock: Clock) -> None:
    record(stats, 2, TIMEOUT, IMAGES)
    clock.now += 1
    record(stats, 3)
    report = stats.report()
    assert report["by_type"] == {"model_overloaded": 3, "inference_timeout": 2}
    assert report["top_patterns"] == [
        {"pattern": "model_overloaded:chat", "count": 3, "last_seen": "1970-01-12T13:46:41.000Z"},
        {"pattern": "inference_timeout:image", "count": 2, "last_seen": "1970-01-12T13:46:40.000Z"},
    ]
    assert json.loads(json.dumps(report)) == report


def test_a_client_that_left_is_a_request_and_no_error(stats: ErrorStats) -> None:
    record(stats, 1, ErrorKind.CLIENT_DISCONNECTED)
    report = stats.report()
    assert (report["requests_last_hour"], report["total_errors"]) == (1, 0)


@pytest.mark.parametrize(
    ("steady", "burst", "factor"),
    [
        (0, 9, 0.0),  # below the floor
        (0, 10, None),  # nothing to compare with
        (4, 13, 3.2),
        (4, 11, 0.0),
        (10, 29, 0.0),
    ],
)
def test_a_minute_that_stands_out_is_a_spike(
    stats: ErrorStats, clock: Clock, steady: int, burst: int, factor: float | None
) -> None:
    for _ in range(59):
        record(stats, steady)
        clock.now += 60
    record(stats, burst)
    clock.now += 55  # the last steady minute's errors are older than a minute now
    spikes = stats.report()["spikes"]
    if factor == 0.0:
        assert spikes == []
    else:
        assert [(spike["error_type"], spike["errors_last_minute"]) for spike in spikes] == [("model_overloaded", burst)]
        assert spikes[0]["factor"] == factor


def test_one_kinds_spike_is_not_hidden_by_anothers_steady_rate(stats: ErrorStats, clock: Clock) -> None:
    for _ in range(59):
        record(stats, 50)
        clock.now += 60
    record(stats, 50)
    record(stats, 12, TIMEOUT)
    assert [spike["error_type"] for spike in stats.report()["spikes"]] == ["inference_timeout"]


def test_what_another_process_exported_counts_as_if_it_had_been_counted_here(stats: ErrorStats, clock: Clock) -> None:
    other, here = ErrorStats(clock), ErrorStats(clock)
    for seconds, kind in [(0, OOM), (40, None), (1000, TIMEOUT), (2000, OOM), (15, None)]:
        clock.now += seconds
        for each in (other, here):
            each.record(kind, "/v1/completions")
    clock.now += 5
    for kind in (OOM, None):
        stats.record(kind, "/generate")
        here.record(kind, "/generate")
    stats.absorb(orjson.loads(orjson.dumps(other.export())))
    for later in (0, 30, 100, 1000, 1200, 3600, 90_000):
        clock.now += later
        assert stats.report() == here.report()


def test_what_is_long_over_is_not_absorbed_into_the_rates(stats: ErrorStats, clock: Clock) -> None:
    other = ErrorStats(clock)
    other.record(OOM, "/v1/completions")
    clock.now += 7200
    stats.record(TIMEOUT, "/v1/completions")
    stats.absorb(other.export())
    report = stats.report()
    assert (report["total_errors"], report["errors_last_hour"], report["requests_last_hour"]) == (2, 1, 1)


def test_a_clock_that_was_far_ahead_does_not_make_the_last_minute_endless(stats: ErrorStats, clock: Clock) -> None:
    clock.now += 86_400.0
    record(stats, 20)
    clock.now -= 86_400.0
    for _ in range(30):  # five minutes
        record(stats, 1)
        clock.now += 10.0
    report = stats.report()
    assert report["errors_last_minute"] <= 7
    assert report["errors_last_hour"] == 50
    assert report["total_errors"] == 50


def test_a_clock_set_back_loses_nothing(stats: ErrorStats, clock: Clock) -> None:
    record(stats, 1)
    clock.now -= 7200
    record(stats, 1)
    assert stats.report()["errors_last_minute"] == 2


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        (CHAT, "chat"),
        ("/v1/completions", "completion"),
        ("/generate", "completion"),
        ("/generate_image", "image"),
        ("/v1/images/edits", "image"),
        ("/v1/audio/speech", "audio"),
        ("/v1/messages", "message"),
        ("/v1/messages/count_tokens", "message"),
        ("/v1/models", "models"),
        ("/v1/models/llama", "models"),
        ("/v1/chat/completions/../../etc/passwd", "other"),
        ("/wp-login.php", "other"),
    ],
)
def test_paths_have_a_bounded_number_of_classes(path: str, operation: str) -> None:
    assert operation_for(path) == operation


@given(st.lists(st.tuples(st.floats(0, 2000), st.sampled_from([None, OVERLOADED, TIMEOUT])), max_size=60))
def test_counts_match_a_plain_list_to_a_slots_width(steps: list[tuple[float, ErrorKind | None]]) -> None:
    clock = Clock()
    stats = ErrorStats(clock)
    times = []
    for wait, error in steps:
        clock.now += wait
        stats.record(error, CHAT)
        if error is not None:
            times.append(clock.now)
    report = stats.report()
    for key, window in (("errors_last_minute", 60), ("errors_last_hour", 3600)):
        at_least = sum(clock.now - at <= window - 5 for at in times)
        at_most = sum(clock.now - at <= window for at in times)
        assert at_least <= report[key] <= at_most
