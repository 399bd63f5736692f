"""Ejection with a limit, and the way back."""

from __future__ import annotations

from math import inf

import pytest

from policies.breaker import BreakerSettings, CircuitBreaker, State, Verdict
from policies.outlier import admitted, in_panic, last_resort, slow_start

SETTINGS = BreakerSettings(
    window=30.0,
    min_requests=10,
    failure_ratio=0.5,
    consecutive_failures=1,
    slow_call=None,
    open_for=10.0,
    max_open_for=60.0,
    half_open_probes=1,
)


class Place:
    def __init__(self, name: str) -> None:
        self.name = name
        self.breaker = CircuitBreaker(SETTINGS, lambda: 0.0)

    def fail(self, now: float) -> None:
        permit = self.breaker.acquire(now)
        assert permit is not None
        self.breaker.record(permit, Verdict.FAILURE, 0.1, now)


def tier(count: int, failed: int) -> list[Place]:
    places = [Place(name) for name in "abcdefgh"[:count]]
    for place in places[:failed]:
        place.fail(100.0)
    return places


def test_a_sound_tier_is_passed_on_as_it_is() -> None:
    places = tier(3, 0)
    assert admitted(places, 100.0) is places


def test_the_ejected_are_left_out_until_their_time_is_over() -> None:
    places = tier(3, 1)
    assert admitted(places, 105.0) == places[1:]
    assert admitted(places, 110.0) == places
    places[0].breaker.acquire(110.0)
    assert admitted(places, 110.0) == places[1:]  # its one probe is under way


@pytest.mark.parametrize(
    ("count", "failed", "max_ejected", "panic"),
    [
        (4, 2, 0.5, False),
        (4, 3, 0.5, True),
        (2, 1, 0.5, False),
        (1, 1, 0.5, True),
        (4, 4, 1.0, False),
        (4, 1, 0.0, True),
        (4, 0, 0.0, False),
    ],
)
def test_panic_is_more_than_the_share_out(count: int, failed: int, max_ejected: float, panic: bool) -> None:
    places = tier(count, failed)
    assert in_panic(places, 105.0, max_ejected) is panic
    assert [place.name for place in last_resort(places, 105.0, max_ejected)] == (
        [place.name for place in places] if panic else []
    )


def test_in_a_full_outage_each_endpoint_is_tried_now_and_then_and_back_at_once() -> None:
    places = tier(2, 2)
    tries = 0
    for tick in range(500):  # five seconds, a hundred requests each
        now = 101.0 + tick / 100
        for place in last_resort(places, now, 0.5)[:1]:
            permit = place.breaker.acquire_early(now)
            assert permit is not None
            tries += 1
            place.breaker.record(permit, Verdict.FAILURE, 0.01, now)
    assert tries == 12
    permit = last_resort(places, 107.0, 0.5)[0].breaker.acquire_early(107.0)
    assert permit is not None
    places[0].breaker.record(permit, Verdict.SUCCESS, 0.01, 107.0)
    assert places[0].breaker.state(107.0) is State.CLOSED


@pytest.mark.parametrize(
    ("closed_at", "now", "factor"),
    [(-inf, 0.0, 1.0), (100.0, 100.0, 0.1), (100.0, 115.0, 0.55), (100.0, 130.0, 1.0), (100.0, 99.0, 0.1)],
)
def test_weight_returns_linearly(closed_at: float, now: float, factor: float) -> None:
    assert slow_start(closed_at, now, 30.0, 0.1) == pytest.approx(factor)


def test_a_window_of_zero_turns_slow_start_off() -> None:
    assert slow_start(100.0, 100.0, 0.0, 0.1) == 1.0
