"""Rate limits of a key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.ratelimit import PERIOD, Quota, RateLimit


def test_a_full_minute_may_come_at_once_and_then_at_the_rate() -> None:
    limit = RateLimit(60)
    assert [limit.try_take(1000.0) for _ in range(61)] == [True] * 60 + [False]
    assert limit.retry_after(1000.0) == pytest.approx(1.0)
    assert not limit.try_take(1000.9)
    assert limit.try_take(1001.0)
    assert not limit.try_take(1001.0)


def test_headers_say_what_is_left_and_when_all_is_back() -> None:
    limit = RateLimit(60)
    assert limit.quota(1000.0) == Quota(60, 60, 0.0)
    for _ in range(45):
        limit.try_take(1000.0)
    assert limit.quota(1000.0) == Quota(60, 15, pytest.approx(45.0))
    assert limit.quota(1015.0) == Quota(60, 30, pytest.approx(30.0))


def test_what_cost_more_or_less_than_thought_is_settled_later() -> None:
    tokens = RateLimit(6000)
    assert tokens.try_take(1000.0, 5000)
    tokens.charge(1000.0, -3000)
    assert tokens.quota(1000.0).remaining == 4000
    tokens.charge(1000.0, 10_000)
    assert tokens.quota(1000.0).remaining == 0
    assert tokens.retry_after(1000.0, 1) == pytest.approx(60.01)


def test_giving_back_never_fills_it_above_its_limit() -> None:
    limit = RateLimit(10)
    limit.charge(1000.0, -500)
    assert limit.quota(1000.0).remaining == 10
    assert sum(limit.try_take(1000.0) for _ in range(20)) == 10


def test_a_request_larger_than_the_limit_is_let_through_when_nothing_else_was() -> None:
    tokens = RateLimit(1000)
    assert tokens.try_take(1000.0, 5000)
    assert not tokens.try_take(1000.0 + PERIOD, 1)
    assert tokens.try_take(1000.0 + 5 * PERIOD, 5000)


@given(st.integers(1, 10_000), st.lists(st.tuples(st.floats(0.0, 30.0), st.integers(1, 20)), min_size=1, max_size=100))
def test_no_stretch_of_time_grants_more_than_its_share_and_one_minute(
    rate: int, steps: list[tuple[float, int]]
) -> None:
    limit = RateLimit(rate)
    start = now = 1000.0
    taken = 0
    for pause, tries in steps:
        now += pause
        taken += sum(limit.try_take(now) for _ in range(tries))
        assert taken <= rate * (1 + (now - start) / PERIOD) + 1e-3


@given(st.integers(1, 1000), st.integers(0, 2000), st.floats(0.0, 1000.0))
def test_retry_after_is_when_it_works(rate: int, used: int, now: float) -> None:
    limit = RateLimit(rate)
    for _ in range(used):
        limit.try_take(now)
    wait = limit.retry_after(now)
    assert limit.try_take(now + wait)
