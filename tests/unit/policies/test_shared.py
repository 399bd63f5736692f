"""The parts of policies that replicas share."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.breaker import BreakerSettings, CircuitBreaker, State, Verdict
from policies.budget import BudgetSettings, RetryBudget
from policies.ratelimit import RateLimit


def opened(now: float = 0.0) -> CircuitBreaker:
    breaker = CircuitBreaker(BreakerSettings(30.0, 10, 0.5, 1, None, 10.0, 300.0, 1), lambda: 0.0)
    permit = breaker.acquire(now)
    assert permit is not None
    breaker.record(permit, Verdict.FAILURE, 0.1, now)
    return breaker


def test_a_circuit_that_another_replica_probes_is_held_open() -> None:
    breaker = opened()
    breaker.hold_open(12.0)
    assert breaker.state(11.0) is State.OPEN
    assert breaker.acquire(11.0) is None
    assert breaker.state(12.0) is State.HALF_OPEN
    breaker.hold_open(5.0)  # never shorter
    assert breaker.state(11.0) is State.OPEN


@pytest.mark.parametrize("state", [State.CLOSED, State.HALF_OPEN])
def test_a_circuit_that_is_not_open_is_not_held(state: State) -> None:
    breaker = opened()
    assert breaker.acquire(10.0) is not None
    if state is State.CLOSED:
        breaker.reset(10.0)
    breaker.hold_open(100.0)
    assert breaker.state(11.0) is state


def test_the_balance_of_others_is_divided_and_their_debt_is_not() -> None:
    budget = RetryBudget(BudgetSettings(0.2, 0.0))
    budget.share(9.0, 3)
    assert budget.balance(1.0) == pytest.approx(3.0)
    for _ in range(20):
        budget.deposit(1.0)
    assert budget.own == pytest.approx(4.0)
    budget.share(-5.0, 3)
    assert not budget.try_withdraw(1.0)
    budget.share(0.0, 1)  # the others are not heard of any more
    assert budget.balance(1.0) == pytest.approx(4.0)


@settings(deadline=None, max_examples=30)
@given(replicas=st.integers(1, 12), rate=st.floats(0.1, 20.0))
def test_the_floors_of_all_replicas_together_are_one_floor(replicas: int, rate: float) -> None:
    granted = 0
    for _ in range(replicas):
        budget = RetryBudget(BudgetSettings(0.0, rate))
        budget.share(0.0, replicas)
        budget.balance(0.0)
        granted += sum(budget.try_withdraw(now / 10) for now in range(1, 1001))
    # Each may begin with one whole retry, as less than one cannot be taken.
    assert granted <= rate * 100 + replicas * max(1.0, rate) + 1


def test_a_shared_bucket_counts_what_was_taken_since() -> None:
    limit = RateLimit(60)
    assert all(limit.try_take(100.0) for _ in range(10))
    assert limit.charged == 10
    limit.follow(100.0, 30.0)  # the others have taken 30, and do not know of these 10
    assert limit.quota(100.0).remaining == 20
    limit.charged = 0.0  # they have been told
    limit.follow(100.0, 0.0)
    assert limit.quota(100.0).remaining == 60
