"""What a plan does not do, and where exactly its limits are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policies.outcome import Elsewhere, ErrorKind, Failure
from policies.plan import MAX_RECOVERIES, AttemptPlan
from policies.target import RECOVERED, RESUME
from tests.unit.policies.test_plan import Budget, Place, plan

UNREACHABLE = Failure(ErrorKind.BACKEND_UNREACHABLE)
BROKE = Failure(ErrorKind.GENERATION_FAILED)
REFUSED = Failure(ErrorKind.INVALID_INPUT)
IN_DOUBT = replace(BROKE, elsewhere=Elsewhere.ONCE)
FULL_MEMORY = Failure(ErrorKind.OUT_OF_MEMORY)
NOT_RETRIED = Failure(ErrorKind.CONTENT_FILTERED, elsewhere=Elsewhere.YES)
"""One that could be tried elsewhere, of a kind that `retry.on` does not name."""


def anywhere(place: Place) -> bool:
    return True


def tried(*tiers: list[Place], failure: Failure = BROKE, now: float = 1.0, **settings: Any) -> AttemptPlan[Place]:
    """A plan whose first attempt, at the first place, has failed."""
    wanted = plan(tiers, **settings)
    first = wanted.next(0.0)
    assert first is not None
    wanted.failed(first.target, failure, now)
    return wanted


def broken(*tiers: list[Place], failure: Failure = BROKE, now: float = 1.0, **settings: Any) -> AttemptPlan[Place]:
    """One whose first answer broke after it had begun."""
    wanted = plan(tiers, **settings)
    first = wanted.next(0.0)
    assert first is not None
    wanted.broke(first.target, failure, now)
    return wanted


# -- attempts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [NOT_RETRIED, Failure(ErrorKind.GENERATION_FAILED, elsewhere=Elsewhere.NEXT_TIER)])
def test_what_is_not_to_be_retried_goes_to_no_other_endpoint_of_the_tier_nor_to_the_ejected(kind: Failure) -> None:
    ejected = Place("c", open=False)
    wanted = tried([Place("a"), Place("b"), ejected], failure=kind, ejected=[ejected])
    assert wanted.next(1.0) is None


def test_a_doubtful_refusal_is_not_taken_back_to_the_same_endpoint_of_whatever_kind() -> None:
    assert tried([Place("a")], failure=IN_DOUBT).next(1.0) is None


def test_asked_again_for_less_only_within_attempts_and_in_time() -> None:
    a = Place("a")
    assert tried([a], attempts=1).again(a, 1.0) is None
    again = tried([a], attempts=2).again(a, 1.0)
    assert again is not None
    assert again.delay == 0.0
    wanted = tried([a], attempts=2, deadline=10.0)
    a.quickest = 9.5
    assert wanted.again(a, 1.0) is None


def test_the_pause_before_a_return_counts_towards_what_it_needs() -> None:
    a = Place("a", quickest=8.95)
    assert tried([a], deadline=10.0).next(1.0) is None  # 0.1 s of backoff are too many
    a.quickest = 8.85
    assert tried([a], deadline=10.0).next(1.0) is not None


def test_one_that_was_passed_over_as_too_slow_is_remembered() -> None:
    slow, quick = Place("a", quickest=50.0), Place("b")
    wanted = plan([[slow, quick]], deadline=10.0)
    assert wanted.next(0.0) is not None
    assert wanted.too_late
    slow.open = False
    wanted.failed(quick, BROKE, 1.0)
    assert wanted.next(1.0) is not None
    assert wanted.too_late


def test_one_that_is_away_is_not_waited_for_while_one_that_failed_may_be_asked_again() -> None:
    choice = tried([Place("a"), Place("b", away=5.0)]).next(3.0)
    assert choice is not None
    assert (choice.target.name, choice.delay) == ("a", 0.0)


@pytest.mark.parametrize(("length", "fits"), [(999, False), (1000, False), (1001, True), (None, False)])
def test_a_context_must_be_longer_than_the_one_that_was_too_short(length: int | None, fits: bool) -> None:
    too_long = Failure(ErrorKind.CONTEXT_LENGTH_EXCEEDED, details={"max_length": 1000})
    wanted = tried([Place("a")], [Place("b", context_length=length)], failure=too_long)
    assert (wanted.next(1.0) is not None) is fits


def test_a_hedge_is_not_sent_to_one_that_may_not_be_asked() -> None:
    a, b = Place("a"), Place("b", open=False)
    wanted = plan([[a, b]])
    wanted.next(0.0)
    assert wanted.hedge(1.0, [a], lambda now: True) is None


def test_the_next_tier_beside_a_silent_one_is_called_a_fallback() -> None:
    a, b = Place("a"), Place("b")
    wanted = plan([[a], [b]])
    wanted.next(0.0)
    beside = wanted.beside(30.0, [a])
    assert beside is not None
    assert (beside.target, beside.why) == (b, "fallback")


# -- waiting -----------------------------------------------------------------------------------------------------------


def test_what_must_not_go_on_waits_for_nothing() -> None:
    wanted = tried([Place("a")], [Place("b", full=True)], failure=REFUSED)
    assert not wanted.may_wait(1.0, 11.0)


@pytest.mark.parametrize(("failure", "recovers"), [(UNREACHABLE, True), (NOT_RETRIED, False), (IN_DOUBT, False)])
def test_after_which_failures_a_recovery_is_waited_for(failure: Failure, recovers: bool) -> None:
    a = Place("a")
    wanted = tried([a], failure=failure)
    a.open = False
    assert wanted.may_recover(1.0, 99.0) is recovers


def test_when_all_recoveries_were_had_there_is_no_waiting_for_more() -> None:
    a = Place("a")
    wanted = tried([a], failure=UNREACHABLE, attempts=1)
    for number in range(1, MAX_RECOVERIES + 1):
        a.open = False
        assert wanted.may_recover(number, 99.0)
        a.open, a.back_at = True, number + 0.5
        choice = wanted.recovered(a.back_at)
        assert choice is not None
        wanted.failed(a, UNREACHABLE, a.back_at)
    a.open = False
    assert not wanted.may_recover(9.0, 99.0)


def test_what_must_not_go_on_is_not_asked_again_by_one_that_came_back() -> None:
    wanted = tried([Place("a", back_at=2.0)], failure=REFUSED)
    assert wanted.recovered(3.0) is None


def test_one_that_failed_since_it_came_back_is_not_back() -> None:
    a = Place("a", back_at=2.0)
    wanted = tried([a], failure=UNREACHABLE, now=3.0, attempts=1)
    assert wanted.recovered(4.0) is None
    a.back_at = 3.5
    assert wanted.recovered(4.0) is not None


@pytest.mark.parametrize("trouble", [{"away": 9.0}, {"full": True}, {"open": False}])
def test_one_that_is_back_and_may_not_be_asked_is_not_asked(trouble: dict[str, Any]) -> None:
    a = Place("a", back_at=2.0, **trouble)
    wanted = plan([[a]], attempts=1)
    wanted.failed(a, UNREACHABLE, 1.0)
    assert wanted.recovered(3.0) is None


@pytest.mark.parametrize(
    ("trouble", "goes_on"), [({"away": 9.0}, False), ({"full": True}, True), ({"open": False}, False)]
)
def test_a_broken_answer_goes_to_one_that_is_back_though_at_its_limit(trouble: dict[str, Any], goes_on: bool) -> None:
    interrupted = broken([Place("x"), Place("b", back_at=2.0, **trouble)], attempts=1)
    assert (interrupted.resume(3.0, anywhere) is not None) is goes_on


def test_a_broken_answer_goes_to_one_that_is_back_with_a_slot_before_one_at_its_limit() -> None:
    interrupted = broken([Place("x"), Place("b", back_at=2.0, full=True), Place("c", back_at=2.0)], attempts=1)
    choice = interrupted.resume(3.0, anywhere)
    assert choice is not None
    assert choice.target.name == "c"


def test_one_of_several_that_is_back_without_a_slot_is_worth_waiting_for() -> None:
    back, other = Place("a", full=True, back_at=2.0), Place("b", full=True)
    wanted = plan([[back, other]])
    wanted.failed(other, UNREACHABLE, 1.0)
    assert wanted.may_recover(3.0, 99.0)
    back.full = False
    assert not wanted.may_recover(3.0, 99.0)  # it can be asked at once
    back.full, back.back_at = True, 0.0
    assert not wanted.may_recover(3.0, 99.0)


# -- resumes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "goes_on"),
    [(BROKE, True), (FULL_MEMORY, True), (NOT_RETRIED, False), (IN_DOUBT, False), (REFUSED, False)],
)
def test_after_which_failures_a_broken_answer_goes_on(failure: Failure, goes_on: bool) -> None:
    wanted = broken([Place("a"), Place("b")], failure=failure)
    assert wanted.may_resume_later(1.0, 11.0, lambda place: True) is goes_on
    assert (wanted.resume(1.0, anywhere) is not None) is goes_on


def test_an_answer_that_has_not_begun_is_not_resumed() -> None:
    wanted = plan([[Place("a")]])
    assert wanted.resume(1.0, anywhere) is None
    assert not wanted.may_resume_later(1.0, 11.0, anywhere)


def test_one_in_doubt_that_was_not_asked_yet_may_be_asked_to_go_on_but_not_again() -> None:
    b = Place("b", missed=True)
    wanted = broken([Place("a"), b])
    choice = wanted.resume(1.0, anywhere)
    assert choice is not None
    assert (choice.target, choice.delay, choice.why) == (b, 0.0, RESUME)
    wanted.failed(b, UNREACHABLE, 1.0)
    assert wanted.resume(2.0, anywhere) is None


def test_each_return_for_a_resume_waits_longer() -> None:
    b = Place("b")
    wanted, delays = broken([Place("a"), b], attempts=6), []
    for _ in range(4):
        choice = wanted.resume(1.0, anywhere)
        assert choice is not None
        delays.append(round(choice.delay, 6))
        wanted.failed(b, BROKE, 1.0)
    assert delays == [0.0, 0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("state", "later"),
    [
        ({"good": True}, False),  # it can be asked now: there is nothing to wait for
        ({"good": True, "full": True}, False),  # one at its limit may be asked to go on
        ({"good": True, "open": False}, True),
        ({"good": False}, True),  # on probation
    ],
)
def test_which_endpoint_a_broken_answer_may_wait_for(state: dict[str, Any], later: bool) -> None:
    assert broken([Place("a"), Place("b", **state)]).may_resume_later(2.0, 12.0, anywhere) is later


def test_a_broken_answer_waits_until_both_its_attempts_and_its_recoveries_are_spent() -> None:
    b = Place("b")
    wanted = broken([Place("a"), b], attempts=1, resumes=1)
    choice = wanted.resume(1.0, anywhere)
    assert choice is not None
    wanted.failed(b, UNREACHABLE, 1.0)
    b.open = False
    for number in range(2, MAX_RECOVERIES + 2):
        assert wanted.may_resume_later(number, number + 10.0, anywhere)  # attempts are spent, recoveries are not
        b.open, b.back_at = True, number + 0.5
        choice = wanted.resume(number + 0.6, anywhere)
        assert choice is not None
        assert choice.why == RECOVERED
        wanted.failed(b, UNREACHABLE, number + 0.7)
        b.open = False
    assert not wanted.may_resume_later(9.0, 19.0, anywhere)


def test_with_attempts_left_it_waits_on_though_its_recoveries_are_spent() -> None:
    b = Place("b", missed=True)
    wanted = broken([Place("a"), b], attempts=MAX_RECOVERIES + 2, resumes=1)
    whys = []
    for number in range(MAX_RECOVERIES + 1):
        choice = wanted.resume(number + 1.6, anywhere)
        assert choice is not None
        whys.append(choice.why)
        wanted.failed(b, UNREACHABLE, number + 1.7)
        b.back_at = number + 2.0
    assert whys == [RESUME, *[RECOVERED] * MAX_RECOVERIES]
    assert wanted.resume(9.0, anywhere) is None
    assert wanted.may_resume_later(9.0, 19.0, anywhere)


def test_a_resume_at_one_that_came_back_is_counted_even_without_budget() -> None:
    charged: list[float] = []
    b = Place("b")
    wanted = plan([[Place("a"), b]], attempts=1, budget=Budget(0), charge=charged.append)
    first = wanted.next(0.0)
    assert first is not None
    wanted.broke(first.target, BROKE, 1.0)
    b.back_at = 2.0
    choice = wanted.resume(3.0, anywhere)
    assert choice is not None
    assert (choice.target, choice.delay, choice.why) == (b, 0.0, RECOVERED)
    assert charged == [3.0]
