"""Waits before going back to an endpoint."""

from __future__ import annotations

import random
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.retry import Backoff, BackoffSettings

Jitter = Literal["full", "equal", "none"]


def backoff(jitter: Jitter, initial: float = 0.05, factor: float = 2.0, longest: float = 2.0) -> Backoff:
    return Backoff(BackoffSettings(initial, factor, longest, jitter))


def test_waits_grow_by_the_factor_up_to_the_longest() -> None:
    waits = backoff("none")
    assert [waits.delay(n, lambda: 0.5) for n in range(1, 9)] == pytest.approx(
        [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    )
    assert waits.delay(1000, lambda: 0.5) == 2.0


@pytest.mark.parametrize(
    ("jitter", "at_zero", "at_half"), [("full", 0.4, 0.2), ("equal", 0.4, 0.3), ("none", 0.4, 0.4)]
)
def test_jitter_spreads_below_the_ceiling(jitter: Jitter, at_zero: float, at_half: float) -> None:
    waits = backoff(jitter)
    assert waits.delay(4, lambda: 0.0) == pytest.approx(at_zero)
    assert waits.delay(4, lambda: 0.5) == pytest.approx(at_half)


@pytest.mark.parametrize(("initial", "factor"), [(0.0, 2.0), (0.1, 1.0), (2.0, 10.0)])
def test_the_corners_of_the_configuration_are_waits_too(initial: float, factor: float) -> None:
    waits = backoff("none", initial, factor)
    assert all(0.0 <= waits.delay(n, lambda: 0.0) <= 2.0 for n in range(1, 20))


@given(st.sampled_from(["full", "equal", "none"]), st.integers(1, 50), st.integers())
def test_the_same_randomness_gives_the_same_wait(jitter: Jitter, number: int, seed: int) -> None:
    waits = backoff(jitter)
    first = waits.delay(number, random.Random(seed).random)
    assert first == waits.delay(number, random.Random(seed).random)
    assert 0.0 <= first <= 2.0
