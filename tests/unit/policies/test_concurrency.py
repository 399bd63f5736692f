"""The adaptive limit against simulated servers."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.concurrency import FixedLimit, GradientLimit


def drive(limit: GradientLimit, capacity: int, start: float, seconds: float, offered: int = 10_000) -> float:
    """A server that takes 100 ms and queues above its capacity; noisy. Returns the end of the time."""
    rng = random.Random(5)
    now = start
    while now < start + seconds:
        in_flight = min(limit.limit, offered)
        base = 0.1 * max(1.0, in_flight / capacity)
        limit.observe(base * rng.lognormvariate(0.0, 0.3), in_flight, now)
        now += 0.02
    return now


@pytest.mark.parametrize("capacity", [16, 64, 200])
def test_settles_near_what_the_server_can_do(capacity: int) -> None:
    limit = GradientLimit(4, 512)
    drive(limit, capacity, 0.0, 120.0)
    assert capacity * 0.7 <= limit.limit <= capacity * 4


def test_grows_to_the_maximum_within_seconds_when_nothing_resists() -> None:
    limit = GradientLimit(4, 512)
    drive(limit, 100_000, 0.0, 5.0)
    assert limit.limit == 512


def test_shrinks_when_the_server_slows_down_and_comes_back() -> None:
    limit = GradientLimit(4, 512)
    now = drive(limit, 256, 0.0, 60.0)
    before = limit.limit
    now = drive(limit, 16, now, 20.0)
    slowed = limit.limit
    assert slowed < before / 3
    drive(limit, 256, now, 120.0)
    assert limit.limit > slowed * 2


def test_noise_alone_does_not_shrink_it() -> None:
    limit = GradientLimit(4, 512)
    now = drive(limit, 100_000, 0.0, 5.0)
    rng = random.Random(9)
    for n in range(5000):
        limit.observe(0.1 * rng.lognormvariate(0.0, 0.6), limit.limit, now + n / 50)
    assert limit.limit > 450


def test_latency_that_rose_for_good_is_learned() -> None:
    limit = GradientLimit(4, 512)
    now = drive(limit, 100_000, 0.0, 5.0)
    for n in range(50_000):  # prompts have become three times as long; the server is as idle as before
        limit.observe(0.3, limit.limit, now + n / 50)
    assert limit.limit == 512


def test_does_not_grow_untested() -> None:
    limit = GradientLimit(4, 512)
    before = limit.limit
    drive(limit, 64, 0.0, 60.0, offered=3)
    assert limit.limit == before


def test_a_burst_of_refusals_is_one_signal() -> None:
    limit = GradientLimit(4, 512)
    for _ in range(50):
        limit.overloaded(100.0)
    assert limit.limit == int(20 * 0.9)
    for n in range(100):
        limit.overloaded(101.0 + n)
    assert limit.limit == 4


@given(
    st.lists(st.tuples(st.floats(0.0, 1e6), st.integers(0, 10_000), st.floats(0.0, 10.0), st.booleans()), max_size=200)
)
def test_never_leaves_its_bounds(steps: list[tuple[float, int, float, bool]]) -> None:
    limit, now = GradientLimit(4, 64), 0.0
    for seconds, in_flight, pause, refused in steps:
        now += pause
        if refused:
            limit.overloaded(now)
        else:
            limit.observe(seconds, in_flight, now)
        assert 4 <= limit.limit <= 64


def test_a_fixed_limit_stays() -> None:
    limit = FixedLimit(64)
    limit.observe(100.0, 64, 0.0)
    limit.overloaded(0.0)
    assert limit.limit == 64
