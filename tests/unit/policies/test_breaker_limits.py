"""What a circuit breaker forgets when its state changes, and where exactly its limits are."""

from __future__ import annotations

import pytest

from policies.breaker import SlowCallSettings, State
from tests.unit.policies.test_breaker import BAD, OK, attempt, breaker, opened, play


def test_the_good_end_of_an_earlier_round_does_not_bring_an_open_circuit_back() -> None:
    circuit = opened(100.0)
    first, second = circuit.acquire(111.0), circuit.acquire(111.0)
    assert first is not None
    assert second is not None
    circuit.record(first, BAD, 0.1, 112.0)
    circuit.record(second, OK, 0.1, 113.0)
    assert circuit.state(113.0) is State.OPEN


@pytest.mark.parametrize("forced", [True, False])
def test_nor_does_it_when_an_operator_or_a_saved_state_opened_it(forced: bool) -> None:
    circuit = opened(100.0)
    permit = circuit.acquire(111.0)
    assert permit is not None
    if forced:
        circuit.force_open(112.0)
    else:
        circuit.restore(opened(112.0).export(112.0), 112.0)
    circuit.record(permit, OK, 0.1, 113.0)
    assert circuit.state(113.0) is State.OPEN


def test_the_late_result_of_a_probe_says_nothing_of_the_circuit_that_closed_without_it() -> None:
    circuit = opened(100.0)
    lost, good = circuit.acquire(111.0), circuit.acquire(112.0)
    late = circuit.acquire(171.5)  # in place of the lost one, which is overdue
    assert lost is not None
    assert good is not None
    assert late is not None
    for permit in (lost, good):
        circuit.record(permit, OK, 0.1, 171.6)
    assert circuit.state(171.6) is State.CLOSED
    circuit.record(late, BAD, 0.1, 171.7)
    assert circuit.snapshot(171.7).requests == 0


def test_reset_forgets_that_it_was_forced_and_how_often_it_opened() -> None:
    circuit = opened(100.0)
    circuit.force_open(101.0)
    circuit.reset(102.0)
    assert not circuit.forced
    play(circuit, "fffff", 103.0)
    assert not circuit.allows(112.9)
    assert circuit.allows(113.0)  # open as long as the first time
    circuit.end_open_time(103.0)
    assert circuit.allows(103.0)


def test_a_state_from_elsewhere_that_is_not_forced_ends_an_operators_hold() -> None:
    circuit = opened(100.0)
    circuit.force_open(101.0)
    circuit.restore(opened(101.0).export(101.0), 101.0)
    assert not circuit.forced
    assert circuit.allows(111.0)


@pytest.mark.parametrize("held", ["closed", "forced"])
def test_what_another_replica_says_of_an_open_circuit_changes_no_other(held: str) -> None:
    circuit = breaker()
    if held == "forced":
        circuit.force_open(100.0)
    circuit.hold_open(500.0)
    if held == "forced":
        assert circuit.retry_after(100.0) is None
        assert not circuit.allows(10_000.0)
        assert circuit.export(100.0).remaining == 0.0
    else:
        play(circuit, "fffff", 100.0)
        assert circuit.allows(110.0)


def test_an_open_circuit_is_held_open_until_then_and_never_less_long() -> None:
    circuit = opened(100.0)
    circuit.hold_open(120.0)
    assert not circuit.allows(119.9)
    circuit.hold_open(115.0)
    assert not circuit.allows(119.9)
    assert circuit.allows(120.0)


def test_a_half_open_circuit_that_is_exported_has_nothing_left_of_its_open_time() -> None:
    circuit = opened(100.0)
    assert circuit.acquire(110.0) is not None
    assert circuit.export(105.0).remaining == 0.0


def test_the_wait_for_a_probes_permit_is_that_of_the_first_to_be_overdue() -> None:
    circuit = opened(100.0)
    assert circuit.retry_after(110.0) is None
    assert circuit.acquire(110.0) is not None
    assert circuit.retry_after(111.0) is None  # another one can be had
    assert circuit.acquire(115.0) is not None
    assert circuit.retry_after(116.0) == pytest.approx(54.0)
    assert circuit.acquire(170.5) is not None
    assert circuit.retry_after(171.0) == pytest.approx(4.0)  # not that of the one that is overdue already


def test_a_circuit_that_slowness_opened_is_not_sound() -> None:
    circuit = breaker(slow_call=SlowCallSettings(over=1.0, ratio=0.8))
    play(circuit, "ssssssssss", 100.0, seconds=2.0)
    assert circuit.state(100.0) is State.OPEN
    assert not circuit.sound


def test_just_as_slow_as_may_be_is_not_slow() -> None:
    circuit = breaker(slow_call=SlowCallSettings(over=1.0, ratio=0.8))
    play(circuit, "ssssssssss", 100.0, seconds=1.0)
    assert circuit.state(100.0) is State.CLOSED
    back = opened(100.0, slow_call=SlowCallSettings(over=1.0, ratio=0.8))
    for _ in range(2):
        attempt(back, OK, 111.0, seconds=1.0)
    assert back.state(111.0) is State.CLOSED


def test_a_failure_does_not_open_it_for_the_slowness_of_others() -> None:
    circuit = breaker(slow_call=SlowCallSettings(over=1.0, ratio=0.5), failure_ratio=1.0)
    play(circuit, "ssss", 100.0, seconds=0.1)
    play(circuit, "sssss", 100.0, seconds=2.0)
    play(circuit, "f", 100.0, seconds=0.1)
    assert circuit.state(100.0) is State.CLOSED


def test_a_slow_answer_does_not_open_it_for_the_failures_of_others() -> None:
    circuit = breaker(slow_call=SlowCallSettings(over=1.0, ratio=0.5))
    play(circuit, "fsfsfsfsf", 100.0)
    play(circuit, "s", 100.0, seconds=2.0)
    assert circuit.state(100.0) is State.CLOSED


def test_what_is_shown_is_of_the_window_only() -> None:
    circuit = breaker()
    play(circuit, "sff", 100.0)
    shown = circuit.snapshot(200.0)
    assert (shown.requests, shown.failures) == (0, 0)
