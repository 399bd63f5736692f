"""Circuit breakers: when they open, how they come back, and what they ignore."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from policies.breaker import (
    BreakerSettings,
    CircuitBreaker,
    SavedBreaker,
    SlowCallSettings,
    State,
    Verdict,
)

SETTINGS = BreakerSettings(
    window=30.0,
    min_requests=10,
    failure_ratio=0.5,
    consecutive_failures=5,
    slow_call=SlowCallSettings(over=20.0, ratio=0.8),
    open_for=10.0,
    max_open_for=60.0,
    half_open_probes=2,
)
OK, NEUTRAL, BAD = Verdict.SUCCESS, Verdict.NEUTRAL, Verdict.FAILURE
NO_JITTER = 0.0


def breaker(**changes: Any) -> CircuitBreaker:
    return CircuitBreaker(replace(SETTINGS, **changes), lambda: NO_JITTER)


def attempt(circuit: CircuitBreaker, verdict: Verdict, now: float, seconds: float = 0.1) -> None:
    permit = circuit.acquire(now)
    assert permit is not None
    circuit.record(permit, verdict, seconds, now)


def play(circuit: CircuitBreaker, outcomes: str, now: float, seconds: float = 0.1) -> None:
    """One attempt for each letter (s, n, f), until the circuit refuses."""
    for letter in outcomes:
        attempt(circuit, {"s": OK, "n": NEUTRAL, "f": BAD}[letter], now, seconds)


def opened(now: float = 100.0, **changes: Any) -> CircuitBreaker:
    circuit = breaker(**changes)
    play(circuit, "f" * 5, now)
    assert circuit.state(now) is State.OPEN
    return circuit


# -- opening -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ("ffff", State.CLOSED),
        ("fffff", State.OPEN),
        ("ffffsffff", State.CLOSED),  # not in a row, and too few for a ratio
        ("sffsfsfsff", State.OPEN),  # 6 of 10
        ("ssssssffff", State.CLOSED),  # 4 of 10
        ("ssssssfffff", State.OPEN),  # 5 in a row
        ("sfsfsfsf", State.CLOSED),  # half, but too few
        ("fnfnfnfnf", State.OPEN),  # neutral ones don't break a row ...
        ("nnnnnnnnnn", State.CLOSED),
        ("ffff" + "n" * 50, State.CLOSED),  # ... nor make one
        ("sfsfsfsf" + "n" * 50 + "s", State.CLOSED),  # nor count as requests
        ("sfsfsfsf" + "sf", State.OPEN),
    ],
)
def test_opens_on_a_run_of_failures_or_a_share_of_them(outcomes: str, state: State) -> None:
    circuit = breaker()
    play(circuit, outcomes, 100.0)
    assert circuit.state(100.0) is state
    assert (circuit.acquire(100.0) is None) is (state is State.OPEN)


def test_failures_that_left_the_window_do_not_count() -> None:
    circuit = breaker(consecutive_failures=100)
    play(circuit, "f" * 9, 100.0)
    play(circuit, "ssssssssssf", 131.0)
    assert circuit.state(131.0) is State.CLOSED
    assert circuit.snapshot(131.0).failures == 1


def test_failures_within_the_window_add_up_over_time() -> None:
    circuit = breaker(consecutive_failures=100)
    for second in range(9):
        play(circuit, "f", 100.0 + second)
    assert circuit.state(108.0) is State.CLOSED
    play(circuit, "f", 109.0)
    assert circuit.state(109.0) is State.OPEN


@pytest.mark.parametrize(
    ("slow", "fast", "state"), [(8, 2, State.OPEN), (7, 3, State.CLOSED), (9, 0, State.CLOSED), (10, 0, State.OPEN)]
)
def test_slow_answers_open_it_by_their_share(slow: int, fast: int, state: State) -> None:
    circuit = breaker()
    play(circuit, "s" * fast, 100.0)
    play(circuit, "s" * slow, 100.0, seconds=20.1)
    assert circuit.state(100.0) is state


def test_without_slow_call_slowness_is_nothing() -> None:
    circuit = breaker(slow_call=None)
    play(circuit, "s" * 50, 100.0, seconds=1000.0)
    assert circuit.state(100.0) is State.CLOSED


def test_a_result_from_before_it_opened_does_not_count() -> None:
    circuit = breaker()
    early = circuit.acquire(99.0)
    assert early is not None
    play(circuit, "fffff", 100.0)
    circuit.record(early, BAD, 0.1, 110.5)
    circuit.record(early, OK, 0.1, 110.5)
    assert circuit.snapshot(110.5).permits_out == 0
    play(circuit, "ss", 111.0)  # closed again
    circuit.record(early, BAD, 0.1, 112.0)
    assert circuit.snapshot(112.0).failures == 0


def test_sound_means_that_nothing_speaks_against_it() -> None:
    circuit = breaker()
    assert circuit.sound
    attempt(circuit, BAD, 100.0)
    assert not circuit.sound
    attempt(circuit, NEUTRAL, 100.0)
    assert not circuit.sound
    attempt(circuit, OK, 100.0)
    assert circuit.sound
    assert not opened().sound


# -- open time ---------------------------------------------------------------------------------------------------------


def test_half_open_after_open_for() -> None:
    circuit = opened(100.0)
    assert circuit.retry_after(104.0) == pytest.approx(6.0)
    assert [circuit.allows(t) for t in (109.9, 110.0)] == [False, True]
    assert [circuit.state(t) for t in (109.9, 110.0)] == [State.OPEN, State.HALF_OPEN]
    assert circuit.retry_after(110.0) is None


def test_open_time_doubles_up_to_the_longest_and_starts_anew_after_a_calm_while() -> None:
    circuit = opened(100.0)
    now, lengths = 100.0, []
    for _ in range(5):
        wait = circuit.retry_after(now)
        assert wait is not None
        lengths.append(wait)
        now += wait
        attempt(circuit, BAD, now)
    assert lengths == pytest.approx([10.0, 20.0, 40.0, 60.0, 60.0])
    now += 60.0
    play(circuit, "ss", now)
    play(circuit, "fffff", now + 59.0)  # too soon: the trouble is the same
    assert circuit.retry_after(now + 59.0) == pytest.approx(60.0)
    now += 120.0
    play(circuit, "ss", now)
    play(circuit, "fffff", now + 61.0)
    assert circuit.retry_after(now + 61.0) == pytest.approx(10.0)


def test_jitter_only_shortens_the_open_time() -> None:
    circuit = CircuitBreaker(SETTINGS, lambda: 0.999)
    play(circuit, "fffff", 100.0)
    wait = circuit.retry_after(100.0)
    assert wait is not None
    assert 9.0 <= wait < 9.1


# -- half-open ---------------------------------------------------------------------------------------------------------


def test_only_so_many_probes_at_once() -> None:
    circuit = opened(100.0)
    permits = [circuit.acquire(110.0) for _ in range(5)]
    assert [permit is not None for permit in permits] == [True, True, False, False, False]
    assert not circuit.allows(110.0)
    assert circuit.retry_after(111.0) == pytest.approx(59.0)


def test_all_probes_good_closes_it() -> None:
    circuit = opened(100.0)
    attempt(circuit, OK, 110.0)
    assert circuit.state(110.0) is State.HALF_OPEN
    attempt(circuit, OK, 111.0)
    assert (circuit.state(111.0), circuit.closed_at) == (State.CLOSED, 111.0)
    assert circuit.snapshot(111.0).failures == 0


def test_one_bad_probe_opens_it_again() -> None:
    circuit = opened(100.0)
    first, second = circuit.acquire(110.0), circuit.acquire(110.0)
    assert first is not None
    assert second is not None
    circuit.record(first, OK, 0.1, 111.0)
    circuit.record(second, BAD, 0.1, 111.0)
    assert circuit.retry_after(111.0) == pytest.approx(20.0)


def test_a_neutral_probe_gives_its_permit_back_and_decides_nothing() -> None:
    circuit = opened(100.0)
    for _ in range(50):
        attempt(circuit, NEUTRAL, 110.0)
    assert circuit.state(110.0) is State.HALF_OPEN
    play(circuit, "ss", 110.0)
    assert circuit.state(110.0) is State.CLOSED


def test_a_permit_given_back_twice_counts_once() -> None:
    circuit = opened(100.0)
    permit = circuit.acquire(110.0)
    assert permit is not None
    circuit.record(permit, OK, 0.1, 110.0)
    circuit.record(permit, OK, 0.1, 110.0)
    assert circuit.state(110.0) is State.HALF_OPEN


def test_a_lost_permit_is_replaced_and_its_late_result_still_counts() -> None:
    circuit = opened(100.0)
    late = [circuit.acquire(110.0), circuit.acquire(110.0)]
    assert circuit.acquire(169.9) is None
    assert circuit.acquire(170.0) is not None
    for permit in late:
        assert permit is not None
        circuit.record(permit, OK, 0.1, 180.0)
    assert circuit.state(180.0) is State.CLOSED


def test_permits_that_never_come_back_are_not_remembered_for_ever() -> None:
    circuit = opened(100.0)
    for minute in range(1000):
        assert circuit.acquire(110.0 + 60 * minute) is not None
        assert circuit.acquire(110.0 + 60 * minute) is not None
    assert len(circuit._permits) <= 8


@pytest.mark.parametrize(("times", "state"), [((0.1, 30.0), State.CLOSED), ((30.0, 30.0), State.OPEN)])
def test_probes_that_are_still_too_slow_open_it_again(times: tuple[float, float], state: State) -> None:
    circuit = opened(100.0)
    for seconds in times:
        attempt(circuit, OK, 110.0, seconds)
    assert circuit.state(110.0) is state


def test_only_the_permits_of_a_trial_are_awaited() -> None:
    circuit = breaker()
    permit = circuit.acquire(0.0)
    assert permit is not None
    assert not circuit.awaits(permit)
    half_open = opened(100.0)
    trial = half_open.acquire(110.0)
    assert trial is not None
    assert half_open.awaits(trial)
    half_open.record(trial, OK, 0.1, 111.0)
    assert not half_open.awaits(trial)
    half_open.record(trial, BAD, 0.1, 150.0)  # its real end, when it has been judged already
    assert half_open.state(150.0) is State.HALF_OPEN


# -- early tries -------------------------------------------------------------------------------------------------------


def early_tries(circuit: CircuitBreaker, begin: float, end: float) -> list[float]:
    """When early permits are to be had if each is used at once and fails; seconds from `begin`."""
    tries = []
    for tick in range(round((end - begin) * 100)):
        now = begin + tick / 100
        if (permit := circuit.acquire_early(now)) is not None:
            circuit.record(permit, BAD, 0.0, now)
            tries.append(round(now - begin, 2))
    return tries


def test_early_tries_are_soon_one_a_second() -> None:
    circuit = opened(100.0)
    assert early_tries(circuit, 100.0, 105.0) == [0.25, 0.75, 1.75, 2.75, 3.75, 4.75]


def test_a_circuit_that_opens_again_from_half_open_is_not_tried_sooner() -> None:
    circuit = opened(100.0)
    early_tries(circuit, 100.0, 102.0)
    attempt(circuit, BAD, 110.0)
    assert early_tries(circuit, 110.0, 112.5) == [1.0, 2.0]


def test_no_more_early_tries_are_out_than_there_are_probes() -> None:
    circuit = opened(100.0)
    assert [circuit.acquire_early(103.0 + n) is not None for n in range(4)] == [True, True, False, False]


def test_a_good_early_try_is_the_first_good_probe() -> None:
    circuit = opened(100.0)
    permit = circuit.acquire_early(102.0)
    assert permit is not None
    circuit.record(permit, OK, 0.1, 102.0)
    assert circuit.state(102.0) is State.HALF_OPEN
    attempt(circuit, OK, 102.1)
    assert circuit.state(102.1) is State.CLOSED


def test_a_bad_early_try_leaves_the_open_time_as_it_was() -> None:
    circuit = opened(100.0)
    permit = circuit.acquire_early(102.0)
    assert permit is not None
    circuit.record(permit, BAD, 0.1, 103.0)
    assert circuit.retry_after(103.0) == pytest.approx(7.0)
    attempt(circuit, BAD, 110.0)
    assert circuit.retry_after(110.0) == pytest.approx(20.0)  # the first failed round


def test_early_is_ordinary_when_the_circuit_is_not_open() -> None:
    circuit = breaker()
    assert circuit.allows_early(0.0)
    assert circuit.acquire_early(0.0) == circuit.acquire(0.0)
    half_open = opened(100.0)
    assert [half_open.acquire_early(110.0) is not None for _ in range(3)] == [True, True, False]


# -- operators, checks, other replicas ---------------------------------------------------------------------------------


def test_forced_open_stays_open_until_reset() -> None:
    circuit = breaker()
    circuit.force_open(100.0)
    circuit.end_open_time(101.0)
    assert circuit.state(1e9) is State.OPEN
    assert circuit.acquire_early(1e9) is None
    assert circuit.retry_after(1e9) is None
    circuit.reset(1e9)
    assert circuit.state(1e9) is State.CLOSED


def test_a_good_health_check_ends_the_open_time() -> None:
    circuit = opened(100.0)
    circuit.end_open_time(101.0)
    assert circuit.state(101.0) is State.HALF_OPEN
    closed = breaker()
    closed.end_open_time(101.0)
    assert closed.state(101.0) is State.CLOSED


def test_transitions_are_told_once_each() -> None:
    seen: list[State] = []
    circuit = CircuitBreaker(SETTINGS, lambda: NO_JITTER, seen.append)
    play(circuit, "fffff", 100.0)
    play(circuit, "f", 110.0)
    play(circuit, "ss", 130.0)
    circuit.reset(131.0)
    assert seen == [State.OPEN, State.HALF_OPEN, State.OPEN, State.HALF_OPEN, State.CLOSED]


def test_an_open_circuit_survives_into_a_process_with_another_clock() -> None:
    saved = opened(100.0).export(103.0)
    assert SavedBreaker(**json.loads(json.dumps(asdict(saved)))) == saved
    other = breaker()
    other.restore(saved, 5000.0)
    assert other.retry_after(5000.0) == pytest.approx(7.0)
    attempt(other, BAD, 5007.0)
    assert other.retry_after(5007.0) == pytest.approx(20.0)  # the growth survived too


def test_half_open_survives_without_its_permits() -> None:
    circuit = opened(100.0)
    circuit.acquire(110.0)
    other = breaker()
    other.restore(circuit.export(111.0), 5000.0)
    assert other.state(5000.0) is State.HALF_OPEN
    play(other, "ss", 5000.0)
    assert other.state(5000.0) is State.CLOSED


def test_forced_and_closed_survive() -> None:
    circuit = breaker()
    circuit.force_open(0.0)
    other = breaker()
    other.restore(circuit.export(0.0), 0.0)
    assert other.state(1e9) is State.OPEN
    other.restore(breaker().export(0.0), 0.0)
    assert other.state(0.0) is State.CLOSED


@pytest.mark.parametrize("remaining", [-5.0, float("nan"), float("inf"), 1e12])
def test_nonsense_from_outside_is_cut_to_the_possible(remaining: float) -> None:
    circuit = breaker()
    circuit.restore(SavedBreaker("open", remaining, 10**9, forced=False), 100.0)
    assert (circuit.retry_after(100.0) or 0.0) <= 60.0
    attempt(circuit, BAD, 160.0)
    assert circuit.retry_after(160.0) == pytest.approx(60.0)
    with pytest.raises(ValueError):
        circuit.restore(SavedBreaker("ajar", 0.0, 0, forced=False), 100.0)


@pytest.mark.parametrize(
    ("streams", "state"),
    [("ff", State.CLOSED), ("fff", State.OPEN), ("ffsff", State.CLOSED), ("ffnf", State.OPEN)],
)
def test_an_endpoint_that_breaks_its_streams_is_taken_out_whatever_its_whole_answers_are(
    streams: str, state: State
) -> None:
    circuit = breaker(consecutive_failures=3, failure_ratio=1.0)
    for letter in streams:
        attempt(circuit, OK, 0.0)
        permit = circuit.acquire(0.0)
        assert permit is not None
        circuit.record(permit, {"s": OK, "n": NEUTRAL, "f": BAD}[letter], 0.1, 0.0, streamed=True)
    assert circuit.state(0.0) is state


def test_a_check_that_finds_it_down_opens_it_like_failures_and_only_when_closed() -> None:
    circuit = breaker(open_for=10.0)
    circuit.trip(100.0)
    assert circuit.state(109.9) is State.OPEN
    circuit.trip(105.0)
    assert circuit.state(110.0) is State.HALF_OPEN
    circuit.force_open(120.0)
    circuit.trip(121.0)
    assert circuit.forced
