"""Deadlines and the header that sets them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.deadline import MAX_TIMEOUT, Quickest, parse_timeout


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30.0),
        ("0.25", 0.25),
        (" 12 ", 12.0),
        ("86400", 86400.0),
        ("86401", None),
        ("0", None),
        ("0.000", None),
        ("-1", None),
        ("+1", None),
        ("1e3", None),
        ("inf", None),
        ("nan", None),
        ("1s", None),
        (".5", None),
        ("5.", None),
        ("1_0", None),
        ("٣", None),
        ("1,5", None),
        ("", None),
        ("9" * 400, None),
        (None, None),
    ],
)
def test_only_plain_positive_decimals_are_timeouts(value: str | None, seconds: float | None) -> None:
    assert parse_timeout(value) == seconds


@given(st.text(max_size=30))
def test_whatever_comes_is_a_usable_number_or_none(value: str) -> None:
    seconds = parse_timeout(value)
    assert seconds is None or (0 < seconds <= MAX_TIMEOUT and math.isfinite(seconds))


def test_the_quickest_is_the_least_of_the_latest_answers_and_nothing_until_there_are_some() -> None:
    quickest = Quickest()
    for number in range(9):
        quickest.observe(1.0 + number, 100.0)
        assert quickest.least(100.0) == 0.0
    quickest.observe(3.0, 100.0)
    assert quickest.least(100.0) == 1.0
    quickest.observe(2.0, 170.0)
    assert quickest.least(170.0) == 1.0  # of the window before
    quickest.observe(2.5, 231.0)
    assert quickest.least(231.0) == 2.0
    assert quickest.least(400.0) == 0.0  # long ago: it may be quicker now


@given(st.lists(st.tuples(st.floats(0.001, 50.0), st.floats(0.0, 90.0)), min_size=1, max_size=60))
def test_the_quickest_is_never_more_than_what_the_last_minute_took(samples: list[tuple[float, float]]) -> None:
    quickest, now, seen = Quickest(), 0.0, list[tuple[float, float]]()
    for seconds, pause in samples:
        now += pause
        quickest.observe(seconds, now)
        seen.append((now, seconds))
        least = quickest.least(now)
        assert least <= min(took for at, took in seen if now - at <= 60.0)
        assert least == 0.0 or least >= min(took for at, took in seen if now - at <= 180.0)
