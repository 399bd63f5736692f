"""Where a broken stream goes on: another endpoint that can go on with it, from the one budget of the request."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from policies.outcome import ErrorKind, Failure
from policies.plan import RESUME, AttemptPlan

BROKE = Failure(ErrorKind.GENERATION_FAILED)


@dataclass(eq=False)
class Place:
    """An endpoint as the plan sees it."""

    name: str
    up: bool = True
    full: bool = False
    away: float = 0.0
    well: bool = False
    context_length: int | None = None

    def usable(self, now: float) -> bool:
        return self.up and not self.full

    def busy(self, now: float) -> bool:
        return self.up

    def away_until(self) -> float:
        return self.away

    def doubtful(self) -> bool:
        return False

    def avoided(self) -> bool:
        return False

    def sound(self) -> bool:
        return self.well

    def recovered_since(self, at: float, now: float) -> bool:
        return False


def plan_of(*tiers: list[Place], attempts: int = 5, budget: int = 100, deadline: float = 100.0) -> AttemptPlan[Place]:
    left = [budget]

    def withdraw(now: float) -> bool:
        left[0] -= 1
        return left[0] >= 0

    return AttemptPlan(
        tiers,
        max_attempts=attempts,
        on=frozenset({ErrorKind.GENERATION_FAILED, ErrorKind.INFERENCE_TIMEOUT}),
        backoff=lambda number: 0.1,
        withdraw=withdraw,
        pick=lambda places, now: places[0],
        deadline=deadline,
    )


def begun(plan: AttemptPlan[Place]) -> Place:
    choice = plan.next(0.0)
    assert choice is not None
    plan.broke(choice.target, BROKE, 0.0)
    return choice.target


def resumed(plan: AttemptPlan[Place], now: float = 1.0, unfit: str = "") -> str | None:
    choice = plan.resume(now, lambda place: place.name not in unfit)
    assert choice is None or choice.why == RESUME
    return choice.target.name if choice is not None else None


def test_it_goes_on_at_each_other_endpoint_and_never_where_it_broke() -> None:
    plan = plan_of([Place("a"), Place("b")], [Place("c")])
    begun(plan)
    assert resumed(plan) == "b"
    plan.broke(plan._tiers[0][1], BROKE, 0.0)
    assert resumed(plan) == "c"
    plan.broke(plan._tiers[1][0], BROKE, 0.0)
    assert resumed(plan) is None


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (Place("b", up=False), None),
        (Place("b", full=True), "b"),
        (Place("b", away=5.0), "b"),
        (Place("b", away=500.0), None),
    ],
)
def test_who_may_be_asked(other: Place, expected: str | None) -> None:
    plan = plan_of([Place("a"), other])
    begun(plan)
    assert resumed(plan) == expected


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
