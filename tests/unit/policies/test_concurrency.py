"""The adaptive limit against simulated servers."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.concurrency import FixedLimit, GradientLimit


def drive(
    limit: GradientLimit,
    capacity: int,
    start: float,
    seconds: float,
    offered: int = 10_000,
    seed: int = 5,
    limits: list[int] | None = None,
) -> float:
    """A server that takes 100 ms and queues above its capacity; noisy. Returns the end of the time."""
    rng = random.Random(seed)
    now = start
    while now < start + seconds:
        in_flight = min(limit.limit, offered)
        if limits is not None:
            limits.append(in_flight)
        base = 0.1 * max(1.0, in_flight / capacity)
        limit.observe(base * rng.lognormvariate(0.0, 0.3), in_flight, now)
        now += 0.02
    return now


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("capacity", [16, 64, 200])
def test_settles_near_what_the_server_can_do(capacity: int, seed: int) -> None:
    limit = GradientLimit(4, 512)
    now = drive(limit, capacity, 0.0, 60.0, seed=seed)
    limits: list[int] = []  # over a while: at any one moment it is off by what the noise makes it
    drive(limit, capacity, now, 30.0, seed=seed + 100, limits=limits)
    assert capacity * 0.7 <= sum(limits) / len(limits) <= capacity * 4


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


def test_answers_that_have_become_longer_are_no_queue() -> None:
    limit = GradientLimit(4, 64)
    drive(limit, 100_000, 0.0, 5.0)
    for n in range(1000):
        limit.observe(1.0, limit.limit, 5.0 + n / 50, tokens=50)
    for n in range(1000):
        limit.observe(20.0, limit.limit, 25.0 + n / 50, tokens=1000)
    assert limit.limit == 64


def test_tokens_that_have_become_slower_are_a_queue() -> None:
    limit = GradientLimit(4, 64)
    for n in range(500):
        limit.observe(1.0, limit.limit, n / 50, tokens=50)
    for n in range(500):
        limit.observe(5.0, limit.limit, 10.0 + n / 50, tokens=50)
    assert limit.limit < 30


def test_a_change_from_streams_to_whole_answers_is_no_queue() -> None:
    limit = GradientLimit(4, 64)
    drive(limit, 100_000, 0.0, 10.0)
    for n in range(1000):
        limit.observe(5.0, limit.limit, 10.0 + n / 50, tokens=200)
    assert limit.limit == 64


def test_a_server_that_answers_at_once_has_no_queue_worth_acting_on() -> None:
    limit = GradientLimit(4, 512)
    for n in range(1000):
        limit.observe(0.00005 * limit.limit, limit.limit, n / 50)
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
    st.lists(
        st.tuples(
            st.floats(0.0, 1e6),
            st.integers(0, 10_000),
            st.floats(0.0, 10.0),
            st.sampled_from(["answer", "busy", "queue"]),
        ),
        max_size=200,
    )
)
def test_never_leaves_its_bounds(steps: list[tuple[float, int, float, str]]) -> None:
    limit, now = GradientLimit(4, 64), 0.0
    for seconds, in_flight, pause, what in steps:
        now += pause
        if what == "busy":
            limit.overloaded(now)
        elif what == "queue":
            limit.queued(in_flight)
        else:
            limit.observe(seconds, in_flight, now)
        assert 4 <= limit.limit <= 64


def crowded(limit: GradientLimit, *, others: int, gauge: bool, start: float = 0.0) -> list[int]:
    """A minute at a server for 16 that others use too; it tells every five seconds how many wait. The limit's way."""
    rng, now, told, limits = random.Random(3), start, start, list[int]()
    while now < start + 60.0:
        inside = limit.limit + others
        limits.append(limit.limit)
        limit.observe(0.1 * max(1.0, inside / 16) * rng.lognormvariate(0.0, 0.3), limit.limit, now)
        if gauge and now >= told:
            limit.queued(max(0, inside - 16))
            told = now + 5.0
        now += 0.02
    return limits


def test_one_that_starts_under_others_load_does_not_take_that_for_usual_where_the_server_tells_its_queue() -> None:
    deaf, told = GradientLimit(4, 512), GradientLimit(4, 512)
    crowded(deaf, others=150, gauge=False)
    crowded(told, others=150, gauge=True)
    assert told.limit <= 8 < 100 < deaf.limit
    after = crowded(told, others=0, gauge=True, start=60.0)[-1000:]
    assert 16 <= sum(after) / len(after) <= 48


def test_a_queue_that_only_keeps_the_server_busy_is_none() -> None:
    limit = GradientLimit(4, 512)
    drive(limit, 100_000, 0.0, 5.0)
    limit.queued(20)
    assert limit.limit == 512


def test_a_fixed_limit_stays() -> None:
    limit = FixedLimit(64)
    limit.queued(1000)
    limit.observe(100.0, 64, 0.0)
    limit.overloaded(0.0)
    assert limit.limit == 64
