"""Retry budgets: what they grant, and what they never exceed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.budget import TTL, BudgetSettings, RetryBudget


def budget(ratio: float, min_per_second: float) -> RetryBudget:
    return RetryBudget(BudgetSettings(ratio, min_per_second))


def drained(retries: RetryBudget, now: float) -> int:
    """How many are granted in one go."""
    count = 0
    while retries.try_withdraw(now):
        count += 1
    return count


@pytest.mark.parametrize(
    ("ratio", "floor", "deposits", "granted"),
    [
        (0.2, 0.0, 100, 20),
        (0.1, 0.0, 10, 1),
        (0.1, 0.0, 9, 0),
        (1.0, 0.0, 7, 7),
        (0.0, 0.0, 1000, 0),
        (0.0, 3.0, 1000, 3),
        (0.2, 3.0, 0, 3),
        (0.2, 3.0, 100, 20),  # the floor is not on top
        (0.2, 0.5, 0, 1),  # a slow floor grants whole retries too
    ],
)
def test_a_share_of_requests_is_granted_and_the_floor_at_least(
    ratio: float, floor: float, deposits: int, granted: int
) -> None:
    retries = budget(ratio, floor)
    for _ in range(deposits):
        retries.deposit(50.0)
    assert drained(retries, 50.0) == granted


def test_deposits_are_forgotten() -> None:
    retries = budget(0.5, 0.0)
    for _ in range(10):
        retries.deposit(100.0)
    assert retries.balance(100.0 + TTL * 0.85) == pytest.approx(5.0)
    assert drained(retries, 100.0 + TTL) == 0


def test_withdrawals_are_forgotten_no_sooner_than_the_deposits_they_used() -> None:
    retries = budget(0.5, 0.0)
    for _ in range(10):
        retries.deposit(100.0)
    assert drained(retries, 101.0) == 5
    assert retries.balance(110.5) < 0.5


def test_the_floor_refills_with_time() -> None:
    retries = budget(0.0, 2.0)
    assert drained(retries, 10.0) == 2
    assert drained(retries, 10.4) == 0
    assert drained(retries, 10.5) == 1
    assert drained(retries, 100.0) == 2  # never more than one second's worth


def test_a_long_silence_costs_nothing_and_grants_nothing() -> None:
    retries = budget(0.2, 0.0)
    for _ in range(100):
        retries.deposit(0.0)
    assert drained(retries, 1e9) == 0


def test_a_forced_withdrawal_is_a_debt_for_a_while() -> None:
    retries = budget(0.5, 0.0)
    retries.withdraw(100.0)
    for _ in range(2):
        retries.deposit(100.0)
    assert not retries.try_withdraw(100.0)
    for _ in range(2):
        retries.deposit(100.0)
    assert retries.try_withdraw(100.0)


@given(
    ratio=st.sampled_from([0.0, 0.05, 0.2, 1.0]),
    floor=st.sampled_from([0.0, 0.3, 3.0]),
    steps=st.lists(
        st.tuples(st.sampled_from([0.0, 0.01, 0.5, 3.0, 20.0]), st.integers(0, 30), st.integers(0, 30)), max_size=60
    ),
)
def test_never_more_than_ratio_times_requests_plus_floor(
    ratio: float, floor: float, steps: list[tuple[float, int, int]]
) -> None:
    retries = budget(ratio, floor)
    start = now = 1000.0
    requests = granted = 0
    for pause, deposits, withdrawals in steps:
        now += pause
        for _ in range(deposits):
            retries.deposit(now)
        requests += deposits
        granted += sum(retries.try_withdraw(now) for _ in range(withdrawals))
        burst = max(1.0, floor) if floor else 0.0
        assert granted <= ratio * requests + floor * (now - start) + burst + 1e-6


def test_a_full_outage_is_amplified_by_the_ratio_only() -> None:
    retries = budget(0.2, 3.0)
    granted = 0
    for tick in range(10_000):  # 100 requests a second, every one of which wants a retry
        retries.deposit(tick / 100)
        granted += retries.try_withdraw(tick / 100)
    assert 1900 <= granted <= 2010


def test_what_is_older_than_the_time_to_live_is_forgotten_bucket_by_bucket() -> None:
    retries = budget(1.0, 0.0)
    for second in range(int(TTL) + 1):
        retries.deposit(second + 0.5)
    assert drained(retries, TTL + 0.6) == int(TTL)


def test_replicas_divide_the_floor_and_know_of_one_anothers_balance() -> None:
    retries = budget(0.0, 6.0)
    assert retries.elsewhere == 0.0
    assert drained(retries, 100.0) == 6
    retries.share(4.0, 3)
    assert retries.elsewhere == 4.0
    assert drained(retries, 200.0) == 2  # of each replica: a third of the floor; what is elsewhere outweighs no debt
    assert drained(retries, 200.5) == 1
    none = budget(0.0, 0.0)
    none.share(0.0, 2)
    assert drained(none, 300.0) == 0


def test_a_share_of_a_small_floor_is_still_one_whole_retry() -> None:
    retries = budget(0.0, 1.0)
    retries.share(0.0, 4)
    assert drained(retries, 100.0) == 1
    assert drained(retries, 103.0) == 0
    assert drained(retries, 104.0) == 1
