"""When a worker that has ended is started again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.workers.supervisor_policy import RestartPolicy, RestartSettings

SETTINGS = RestartSettings(initial=1, factor=2, max=5, jitter=0.5, max_failures=4, stable_after=60)


def no_jitter() -> float:
    return 0.0


def test_delay_grows_to_its_maximum_and_then_the_worker_is_given_up() -> None:
    policy = RestartPolicy(SETTINGS, no_jitter)
    assert [policy.ended(now) for now in range(5)] == [1, 2, 4, 5, None]


def test_jitter_only_shortens_the_delay_by_its_share() -> None:
    policy = RestartPolicy(SETTINGS, lambda: 0.5)
    assert [policy.ended(now) for now in range(2)] == [0.75, 1.5]


@pytest.mark.parametrize(("ready_for", "next_delay"), [(59.9, 2.0), (60.0, 1.0)])
def test_only_a_stable_time_starts_again_from_the_beginning(ready_for: float, next_delay: float) -> None:
    policy = RestartPolicy(SETTINGS, no_jitter)
    policy.ended(0)
    policy.ready(10)
    assert policy.ended(10 + ready_for) == next_delay


def test_a_long_load_that_never_was_ready_is_not_stable() -> None:
    policy = RestartPolicy(SETTINGS, no_jitter)
    policy.ready(0)
    assert policy.ended(100) == 1
    assert policy.ended(1000) == 2


@given(
    st.floats(0, 10), st.floats(1, 1e6), st.floats(0, 1e4), st.floats(0, 1), st.lists(st.floats(0, 0.999), max_size=50)
)
def test_delays_stay_within_their_bounds(
    initial: float, factor: float, more: float, jitter: float, draws: list[float]
) -> None:
    settings = RestartSettings(initial=initial, factor=factor, max=initial + more, jitter=jitter, max_failures=40)
    values = iter(draws)
    policy = RestartPolicy(settings, lambda: next(values))
    for count in range(1, len(draws) + 1):
        delay = policy.ended(0.0)
        assert (delay is None) == (count > 40)
        assert delay is None or initial * (1 - jitter) * 0.999 <= delay <= settings.max


@pytest.mark.parametrize(
    "bad", [{"initial": -1}, {"initial": 2, "max": 1}, {"factor": 0.5}, {"jitter": 1.5}, {"max_failures": -1}]
)
def test_settings_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="restart backoff"):
        RestartSettings(**bad)
