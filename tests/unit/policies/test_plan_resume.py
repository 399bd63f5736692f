"""Where a broken stream goes on: another endpoint that can go on with it, from the one budget of the request."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from policies.outcome import ErrorKind, Failure
from policies.plan import AttemptPlan
from policies.target import RESUME, PlanRules

BROKE = Failure(ErrorKind.GENERATION_FAILED)


@dataclass(eq=False)
class Place:
    """An endpoint as the plan sees it."""

    name: str
    up: bool = True
    full: bool = False
    away: float = 0.0
    well: bool = False
    missed: bool = False
    back_at: float = 0.0
    answered_at: float = 0.0
    due: float = 0.0
    quickest: float = 0.0
    context_length: int | None = None

    def usable(self, now: float) -> bool:
        return self.up and not self.full

    def busy(self, now: float) -> bool:
        return self.up and self.full

    def least(self, now: float) -> float:
        return self.quickest

    def away_until(self) -> float:
        return self.away

    def doubtful(self) -> bool:
        return self.missed

    def avoided(self) -> bool:
        return False

    def sound(self) -> bool:
        return self.well

    def recovered_since(self, at: float, now: float) -> bool:
        return self.back_at > at

    def back_by(self, until: float, now: float) -> bool:
        return now < self.due <= until

    def answered_since(self, at: float) -> bool:
        return self.answered_at > at


def plan_of(*tiers: list[Place], attempts: int = 5, budget: int = 100, deadline: float = 100.0) -> AttemptPlan[Place]:
    left = [budget]

    def withdraw(now: float) -> bool:
        left[0] -= 1
        return left[0] >= 0

    rules = PlanRules(
        tiers,
        max_attempts=attempts,
        on=frozenset({ErrorKind.GENERATION_FAILED, ErrorKind.INFERENCE_TIMEOUT, ErrorKind.MODEL_OVERLOADED}),
        backoff=lambda number: 0.1,
        withdraw=withdraw,
        pick=lambda places, now, key: places[0],
    )
    return AttemptPlan(rules, deadline)


def begun(plan: AttemptPlan[Place]) -> Place:
    choice = plan.next(0.0)
    assert choice is not None
    plan.broke(choice.target, BROKE, 0.0)
    return choice.target


def resumed(plan: AttemptPlan[Place], now: float = 1.0, unfit: str = "") -> str | None:
    choice = plan.resume(now, lambda place: place.name not in unfit)
    assert choice is None or choice.why == RESUME
    return choice.target.name if choice is not None else None


def test_it_goes_on_at_each_other_endpoint_and_not_where_it_broke() -> None:
    plan = plan_of([Place("a"), Place("b")], [Place("c")])
    begun(plan)
    assert resumed(plan) == "b"
    plan.broke(plan._tiers[0][1], BROKE, 0.0)
    assert resumed(plan) == "c"
    plan.broke(plan._tiers[1][0], BROKE, 0.0)
    assert resumed(plan) is None


@pytest.mark.parametrize(
    ("silent_for", "answered_at", "expected"),
    [
        (0.0, 0.9, None),  # before it broke
        (0.0, 1.1, "a"),
        (0.5, 0.4, None),  # before the silence
        (0.5, 0.6, "a"),
    ],
)
def test_it_goes_back_to_where_it_broke_if_others_were_answered_there_since(
    silent_for: float, answered_at: float, expected: str | None
) -> None:
    a = Place("a")
    plan = plan_of([a, Place("b", up=False)])
    assert plan.next(0.0) is not None
    plan.broke(a, Failure(ErrorKind.INFERENCE_TIMEOUT), 1.0, silent_for)
    a.answered_at = answered_at
    assert resumed(plan, 1.2) == expected


@pytest.mark.parametrize("other", [Place("b"), Place("b", full=True)])
def test_it_does_not_go_back_while_another_can_be_asked(other: Place) -> None:
    a = Place("a", answered_at=5.0)
    plan = plan_of([a, other])
    begun(plan)
    assert resumed(plan, 6.0) == "b"


@pytest.mark.parametrize("trouble", [{"up": False}, {"full": True}, {"away": 9.0}])
def test_it_does_not_go_back_to_one_that_may_not_be_asked(trouble: dict[str, bool]) -> None:
    plan = plan_of([Place("a", answered_at=5.0)])
    a = begun(plan)
    for name, value in trouble.items():
        setattr(a, name, value)
    assert resumed(plan, 6.0) is None


def test_it_goes_back_once() -> None:
    plan = plan_of([Place("a", answered_at=5.0)])
    a = begun(plan)
    assert resumed(plan, 6.0) == "a"
    plan.broke(a, BROKE, 6.0)
    a.answered_at = 7.0
    assert resumed(plan, 8.0) is None


@pytest.mark.parametrize(("kind", "again"), [(ErrorKind.GENERATION_FAILED, None), (ErrorKind.MODEL_OVERLOADED, "a")])
def test_one_that_was_only_busy_when_it_went_back_is_gone_back_to_again(kind: ErrorKind, again: str | None) -> None:
    plan = plan_of([Place("a", answered_at=5.0)])
    a = begun(plan)
    assert resumed(plan, 6.0) == "a"
    plan.failed(a, Failure(kind), 6.0)
    assert resumed(plan, 8.0) == again


def test_going_back_costs_budget_though_the_endpoint_is_sound() -> None:
    plan = plan_of([Place("a", answered_at=5.0, well=True)], budget=0)
    begun(plan)
    assert resumed(plan, 6.0) is None
    assert plan.budget_exhausted


def test_one_that_needs_no_budget_is_gone_to_when_there_is_none_for_another() -> None:
    plan = plan_of([Place("a"), Place("b"), Place("c", well=True, full=True)], budget=0)
    begun(plan)
    assert resumed(plan) == "c"


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (Place("b", up=False), None),
        (Place("b", full=True), "b"),
        (Place("b", away=5.0), None),
    ],
)
def test_who_may_be_asked(other: Place, expected: str | None) -> None:
    plan = plan_of([Place("a"), other])
    begun(plan)
    assert resumed(plan) == expected


def test_one_that_asked_to_be_left_alone_is_passed_over_and_waited_for_only_when_nobody_else_can_go_on() -> None:
    b, c = Place("b", away=5.0), Place("c")
    plan = plan_of([Place("a"), b], [c])
    begun(plan)
    assert resumed(plan) == "c"
    plan.broke(c, BROKE, 1.0)
    assert resumed(plan, 4.0) is None
    assert resumed(plan, 5.0) == "b"


def test_one_that_cannot_go_on_with_the_answer_is_passed_over() -> None:
    plan = plan_of([Place("a"), Place("b"), Place("c")])
    begun(plan)
    assert resumed(plan, unfit="b") == "c"


def test_one_with_room_comes_before_one_at_its_limit() -> None:
    plan = plan_of([Place("a"), Place("b", full=True), Place("c")])
    begun(plan)
    assert resumed(plan) == "c"


@pytest.mark.parametrize("limits", [{"attempts": 1}, {"budget": 0}, {"deadline": 0.5}])
def test_attempts_budget_and_deadline_bound_it(limits: dict[str, int]) -> None:
    plan = plan_of([Place("a"), Place("b")], **limits)  # type: ignore[arg-type]
    begun(plan)
    assert resumed(plan) is None
    assert plan.budget_exhausted is ("budget" in limits)


@pytest.mark.parametrize("kind", [ErrorKind.GENERATION_FAILED, ErrorKind.INFERENCE_TIMEOUT])
def test_moving_from_a_broken_endpoint_to_a_sound_one_costs_no_budget(kind: ErrorKind) -> None:
    plan = plan_of([Place("a"), Place("b", well=True)], budget=0)
    choice = plan.next(0.0)
    assert choice is not None
    plan.broke(choice.target, Failure(kind), 0.0)
    assert resumed(plan) == "b"


@pytest.mark.parametrize(
    "kind", [ErrorKind.CLIENT_DISCONNECTED, ErrorKind.DEADLINE_EXCEEDED, ErrorKind.CONTENT_FILTERED]
)
def test_what_is_not_the_endpoints_fault_is_not_resumed(kind: ErrorKind) -> None:
    plan = plan_of([Place("a"), Place("b")])
    choice = plan.next(0.0)
    assert choice is not None
    plan.broke(choice.target, Failure(kind), 0.0)
    assert resumed(plan) is None


def failed_at(plan: AttemptPlan[Place], now: float = 1.0) -> str | None:
    """Takes the next resume, which fails before its first content."""
    choice = plan.resume(now, lambda place: True)
    if choice is None:
        return None
    plan.failed(choice.target, BROKE, now)
    return choice.target.name


def test_an_endpoint_of_a_further_tier_comes_before_one_that_failed_to_go_on() -> None:
    plan = plan_of([Place("a"), Place("b")], [Place("c")], attempts=6)
    begun(plan)
    assert [failed_at(plan) for _ in range(2)] == ["b", "c"]
    choice = plan.resume(1.0, lambda place: True)
    assert choice is not None
    assert choice.delay == pytest.approx(0.1)  # back to one that failed: after the backoff


def test_time_that_has_passed_since_a_failure_is_no_longer_paused_before_a_resume() -> None:
    plan = plan_of([Place("a"), Place("b")], attempts=6)
    begun(plan)
    assert failed_at(plan, 1.0) == "b"
    choice = plan.resume(1.06, lambda place: True)
    assert choice is not None
    assert choice.delay == pytest.approx(0.04)


def test_one_that_cannot_be_reached_is_asked_again_when_it_is_back() -> None:
    b = Place("b")
    plan = plan_of([Place("a"), b], attempts=3)
    begun(plan)
    assert failed_at(plan, 1.0) == "b"
    b.missed = True
    assert plan.resume(2.0, lambda place: True) is None
    assert plan.may_resume_later(2.0, 10.0, lambda place: True)
    b.missed, b.back_at = False, 3.0
    choice = plan.resume(3.5, lambda place: True)
    assert choice is not None
    assert choice.target is b


def test_recoveries_go_beyond_the_attempts_and_are_bounded() -> None:
    b = Place("b")
    plan = plan_of([Place("a"), b], attempts=2)
    begun(plan)
    assert failed_at(plan, 1.0) == "b"
    assert plan.resume(1.5, lambda place: True) is None
    seen = []
    for at in (2.0, 3.0, 4.0):
        b.back_at = at + 0.5
        seen.append(failed_at(plan, at + 0.6))
    assert seen == ["b", "b", None]
    assert not plan.may_resume_later(9.0, 19.0, lambda place: True)


@pytest.mark.parametrize(
    ("other", "later"),
    [
        (Place("b", up=False), True),
        (Place("b", well=True), False),  # nothing speaks against it: it was refused for want of attempts or time
        (Place("a2", up=False), True),
        (Place("b", away=5.0, well=True), True),
        (Place("b", away=500.0, well=True), False),
        (Place("b", away=500.0, up=False), False),
    ],
)
def test_who_is_worth_waiting_for(other: Place, later: bool) -> None:
    plan = plan_of([Place("a"), other])
    begun(plan)
    assert plan.may_resume_later(1.0, 10.0, lambda place: True) is later
    assert not plan.may_resume_later(1.0, 10.0, lambda place: False)


def test_no_endpoint_is_asked_that_could_not_answer_before_the_deadline() -> None:
    plan = plan_of([Place("a"), Place("b", quickest=5.0), Place("c", quickest=0.5)], deadline=3.0)
    begun(plan)
    assert resumed(plan) == "c"
    assert plan.too_late
