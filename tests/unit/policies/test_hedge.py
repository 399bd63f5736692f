"""When a second endpoint is asked, and the live quantile behind it."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.budget import BudgetSettings, RetryBudget
from policies.hedge import HedgePolicy, HedgeSettings
from policies.quantile import GROWTH, LONGEST, SHORTEST, DecayingHistogram


@given(st.lists(st.floats(SHORTEST, LONGEST), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 1.0]))
def test_a_quantile_is_at_most_one_bucket_too_high(durations: list[float], share: float) -> None:
    times = DecayingHistogram(30.0)
    for seconds in durations:
        times.add(seconds, 1.0)
    exact = sorted(durations)[max(0, math.ceil(share * len(durations) - 1e-9) - 1)]
    estimate = times.quantile(share)
    assert estimate is not None
    assert exact * (1 - 1e-9) <= estimate <= exact * GROWTH * (1 + 1e-9)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 1e-9, 1e9, math.inf])
def test_durations_out_of_range_count_at_its_ends(seconds: float) -> None:
    times = DecayingHistogram(30.0)
    times.add(seconds, 1.0)
    estimate = times.quantile(0.5)
    assert estimate is not None
    assert estimate == SHORTEST if seconds < 1 else LONGEST <= estimate <= LONGEST * GROWTH


def test_the_past_fades() -> None:
    times = DecayingHistogram(10.0)
    for _ in range(1000):
        times.add(10.0, 1.0)
    for second in range(2, 120):
        times.add(0.1, float(second))
    assert times.quantile(0.95) == pytest.approx(0.1, rel=0.11)
    assert times.count < 200


def test_an_idle_time_of_any_length_is_forgotten_in_one_step() -> None:
    times = DecayingHistogram(10.0)
    for _ in range(1000):
        times.add(10.0, 1.0)
    times.add(0.1, 1e9)
    assert times.count == 1.0


def test_nothing_seen_is_no_quantile() -> None:
    assert DecayingHistogram(10.0).quantile(0.5) is None


LARGEST = 1000


def hedging(after: object = 2.0, budget: float = 0.05, *, images: bool = False) -> HedgePolicy:
    return HedgePolicy(HedgeSettings(after, 1, budget, LARGEST, images))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("after", "hedges", "size", "delay"),
    [
        (2.0, 0, 100, 2.0),
        (2.0, 1, 100, None),  # one at most
        (2.0, 0, LARGEST + 1, None),
        ("p95", 0, 100, None),  # nothing measured yet
    ],
)
def test_a_fixed_delay_for_small_requests_only(after: object, hedges: int, size: int, delay: float | None) -> None:
    assert hedging(after).delay(0.0, hedges, size, stream=True) == delay


def test_images_are_hedged_only_where_that_is_set() -> None:
    assert hedging().delay(0.0, 0, 100, stream=False, image=True) is None
    assert hedging(images=True).delay(0.0, 0, 100, stream=False, image=True) == 2.0


def test_whole_answers_and_streams_have_tails_of_their_own() -> None:
    policy = hedging("p95")
    for n in range(100):
        policy.observe(0.1, 1.0 + n / 100, stream=True)
        policy.observe(10.0, 1.0 + n / 100, stream=False)
    assert policy.delay(5.0, 0, 100, stream=True) == pytest.approx(0.1, rel=0.15)
    assert policy.delay(5.0, 0, 100, stream=False) == pytest.approx(10.0, rel=0.15)


def test_the_live_delay_follows_the_95th_percentile() -> None:
    policy = hedging("p95")
    rng = random.Random(3)
    for n in range(1000):
        policy.observe(rng.uniform(0.0, 1.0), 1.0 + n / 1000, stream=True)
    assert policy.delay(10.0, 0, 100, stream=True) == pytest.approx(0.95, rel=0.15)
    for n in range(2000):
        policy.observe(4.0, 11.0 + n / 1000, stream=True)
    assert policy.delay(20.0, 0, 100, stream=True) == pytest.approx(4.0, rel=0.15)


def test_few_measurements_say_nothing_about_a_tail() -> None:
    policy = hedging("p95")
    for _ in range(19):
        policy.observe(1.0, 1.0, stream=True)
    assert policy.delay(2.0, 0, 100, stream=True) is None
    policy.observe(1.0, 1.0, stream=True)
    assert policy.delay(3.0, 0, 100, stream=True) is not None


def test_a_hedge_costs_both_budgets_or_neither() -> None:
    policy, shared = hedging(budget=0.1), RetryBudget(BudgetSettings(0.5, 0.0))
    for _ in range(20):
        policy.deposit(1.0)
    assert not policy.try_hedge(1.0, shared)
    assert policy.budget.balance(1.0) == pytest.approx(2.0)
    for _ in range(20):
        shared.deposit(1.0)
    assert [policy.try_hedge(1.0, shared) for _ in range(3)] == [True, True, False]
    assert shared.balance(1.0) == pytest.approx(8.0)


def test_a_route_of_few_requests_has_a_hedge_now_and_then_but_none_with_a_budget_of_zero() -> None:
    shared = RetryBudget(BudgetSettings(1.0, 100.0))
    seldom, none = hedging(), hedging(budget=0.0)
    assert 9 <= sum(seldom.try_hedge(float(second), shared) for second in range(1, 101)) <= 11
    assert not any(none.try_hedge(float(second), shared) for second in range(1, 101))
