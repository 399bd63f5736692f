"""Where a request's attempts go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.outcome import Blame, Elsewhere, ErrorKind, Failure
from policies.plan import AttemptPlan
from policies.target import PlanRules

ON = frozenset(
    {
        ErrorKind.BACKEND_UNREACHABLE,
        ErrorKind.MODEL_OVERLOADED,
        ErrorKind.MODEL_LOADING,
        ErrorKind.GENERATION_FAILED,
        ErrorKind.INFERENCE_TIMEOUT,
    }
)


@dataclass(eq=False)
class Place:
    name: str
    context_length: int | None = None
    open: bool = True
    away: float = 0.0
    full: bool = False
    missed: bool = False
    strained: bool = False
    good: bool = False
    back_at: float = 0.0
    answered_at: float = 0.0
    due: float = 0.0
    quickest: float = 0.0

    def usable(self, now: float) -> bool:
        return self.open and not self.full

    def busy(self, now: float) -> bool:
        return self.open and self.full

    def least(self, now: float) -> float:
        return self.quickest

    def away_until(self) -> float:
        return self.away

    def doubtful(self) -> bool:
        return self.missed

    def avoided(self) -> bool:
        return self.strained or self.doubtful()

    def sound(self) -> bool:
        return self.good

    def recovered_since(self, at: float, now: float) -> bool:
        return self.back_at > at

    def back_by(self, until: float, now: float) -> bool:
        return now < self.due <= until

    def answered_since(self, at: float) -> bool:
        return self.answered_at > at


@dataclass
class Budget:
    left: int = 100
    taken: int = field(default=0)

    def withdraw(self, now: float) -> bool:
        if self.left <= 0:
            return False
        self.left -= 1
        self.taken += 1
        return True


def plan(
    tiers: Sequence[Sequence[Place]],
    *,
    attempts: int = 3,
    resumes: int = 0,
    budget: Budget | None = None,
    deadline: float = 100.0,
    ejected: Sequence[Place] = (),
    glance: Callable[[Sequence[Place], float], Place | None] = lambda tier, now: None,
    charge: Callable[[float], object] = lambda now: None,
) -> AttemptPlan[Place]:
    rules = PlanRules(
        tiers,
        max_attempts=attempts,
        max_resumes=resumes,
        on=ON,
        backoff=lambda number: 0.1 * number,
        withdraw=(budget or Budget()).withdraw,
        pick=lambda places, now, key: places[0],
        ejected=lambda tier, now: [place for place in tier if place in ejected],
        glance=glance,
        charge=charge,
    )
    return AttemptPlan(rules, deadline)


def walk(wanted: AttemptPlan[Place], *failures: Failure) -> list[tuple[str, float, str]]:
    """The choices made when every attempt fails in turn with these (the last one for ever)."""
    made, now = [], 0.0
    for number in range(20):
        choice = wanted.next(now)
        if choice is None:
            return made
        made.append((choice.target.name, round(choice.delay, 6), choice.why))
        now += choice.delay
        wanted.failed(choice.target, failures[min(number, len(failures) - 1)], now)
    raise AssertionError("the plan never ends")


BROKEN = Failure(ErrorKind.GENERATION_FAILED)


def test_untried_endpoints_come_first_then_tried_ones_after_a_pause() -> None:
    assert walk(plan([[Place("a"), Place("b")]], attempts=4), BROKEN) == [
        ("a", 0.0, "primary"),
        ("b", 0.0, "retry"),
        ("a", 0.1, "retry_same"),
        ("a", 0.2, "retry_same"),
    ]


def test_time_that_has_passed_since_a_failure_is_no_longer_paused() -> None:
    for now, delay in [(1.0, 0.1), (1.06, 0.04), (7.0, 0.0)]:
        again = plan([[place := Place("a")]])
        assert again.next(0.0) is not None
        again.failed(place, BROKEN, 1.0)
        choice = again.next(now)
        assert choice is not None
        assert choice.delay == pytest.approx(delay)


def test_each_further_tier_gets_one_attempt_though_the_attempts_are_used_up() -> None:
    tiers = [[Place("a"), Place("b")], [Place("c")], [Place("d")]]
    assert [name for name, *_ in walk(plan(tiers, attempts=2), BROKEN)] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "kind",
    [ErrorKind.INVALID_INPUT, ErrorKind.CONTENT_FILTERED, ErrorKind.CLIENT_DISCONNECTED, ErrorKind.DEADLINE_EXCEEDED],
)
def test_what_is_not_the_backends_fault_goes_nowhere_else(kind: ErrorKind) -> None:
    assert len(walk(plan([[Place("a"), Place("b")], [Place("c")]]), Failure(kind))) == 1


def test_a_silent_endpoint_is_never_asked_again() -> None:
    made = walk(plan([[Place("a"), Place("b")]], attempts=5), Failure(ErrorKind.INFERENCE_TIMEOUT))
    assert [name for name, *_ in made] == ["a", "b"]


def test_a_context_error_goes_only_to_a_longer_context() -> None:
    failure = Failure(ErrorKind.CONTEXT_LENGTH_EXCEEDED, details={"max_length": 4096})
    tiers = [[Place("a"), Place("b", 4096)], [Place("short", 2048)], [Place("unknown")], [Place("long", 32768)]]
    assert [name for name, *_ in walk(plan(tiers), failure)] == ["a", "long"]


def test_an_unknown_model_goes_to_the_next_tier_at_once() -> None:
    tiers = [[Place("a"), Place("b")], [Place("c")]]
    assert [name for name, *_ in walk(plan(tiers), Failure(ErrorKind.MODEL_NOT_FOUND))] == ["a", "c"]


def test_out_of_memory_is_tried_elsewhere_but_not_again_in_the_same_place() -> None:
    made = walk(plan([[Place("a"), Place("b")]], attempts=5), Failure(ErrorKind.OUT_OF_MEMORY))
    assert [name for name, *_ in made] == ["a", "b"]


def test_without_budget_the_tier_is_left_and_that_is_said() -> None:
    wanted = plan([[Place("a"), Place("b")], [Place("c")]], budget=Budget(left=0))
    assert [name for name, *_ in walk(wanted, BROKEN)] == ["a", "c"]
    assert wanted.budget_exhausted


def test_an_endpoint_that_asked_for_a_pause_is_passed_over_for_a_further_tier_too() -> None:
    away, ejected = Place("away", away=5.0), Place("ejected", open=False)
    assert walk(plan([[away, Place("b")]]), BROKEN)[0] == ("b", 0.0, "primary")
    assert walk(plan([[away], [Place("b")]]), BROKEN)[0] == ("b", 0.0, "fallback")
    assert walk(plan([[away], [ejected]], ejected=[ejected]), BROKEN)[0] == ("ejected", 0.0, "last_resort")
    assert plan([[away]]).next(0.0) is None


def test_when_all_are_busy_each_is_asked_once_and_then_the_first_whose_pause_is_over() -> None:
    a, b, c = Place("a"), Place("b"), Place("c")
    wanted = plan([[a, b], [c]])
    for place, why in ((a, "primary"), (b, "retry"), (c, "fallback")):
        assert chosen_at(wanted, 0.0) == (place, why)
        place.away = 1.0 if place is b else 2.0
        wanted.failed(place, Failure(ErrorKind.MODEL_OVERLOADED), 0.0)
    assert wanted.next(0.5) is None
    assert wanted.may_wait(0.5, until=10.0)
    assert chosen_at(wanted, 1.0) == (b, "retry_same")
    b.away = 3.0
    wanted.failed(b, Failure(ErrorKind.MODEL_OVERLOADED), 1.0)
    assert not wanted.may_wait(1.5, until=10.0)  # no attempt is left
    assert wanted.next(4.0) is None


def test_an_attempt_goes_to_the_first_tier_that_has_an_endpoint_for_it_now() -> None:
    a, b, c = Place("a", open=False), Place("b", open=False), Place("c")
    wanted = plan([[a, b], [c]])
    assert chosen_at(wanted, 0.0) == (c, "fallback")
    wanted.failed(c, BROKEN, 1.0)
    a.open = b.open = True
    assert chosen_at(wanted, 1.0) == (a, "primary")
    wanted.failed(a, BROKEN, 1.0)
    assert chosen_at(wanted, 1.0) == (b, "retry")


def test_whoever_waits_for_one_that_comes_back_may_go_to_a_tier_that_was_left() -> None:
    a, c = Place("a"), Place("c")
    wanted = plan([[a], [c]], attempts=1)
    for place in (a, c):
        assert chosen_at(wanted, 1.0) is not None
        wanted.failed(place, Failure(ErrorKind.BACKEND_UNREACHABLE), 1.0)
        place.open = False
    assert wanted.may_recover(1.5, 99.0)
    assert wanted.recovered(1.5) is None
    a.open, a.back_at = True, 2.0
    choice = wanted.recovered(2.0)
    assert choice is not None
    assert (choice.target, choice.why) == (a, "recovered")


@pytest.mark.parametrize("final", [ErrorKind.OUT_OF_MEMORY, ErrorKind.MODEL_LOADING_FAILED])
def test_who_failed_in_a_way_that_is_not_retried_is_not_asked_again_after_another(final: ErrorKind) -> None:
    assert [name for name, *_ in walk(plan([[Place("a")], [Place("c")]], attempts=5), Failure(final), BROKEN)] == [
        "a",
        *["c"] * 5,
    ]


def test_a_tier_without_a_usable_endpoint_is_skipped() -> None:
    tiers = [[Place("a", open=False)], [Place("b")]]
    assert walk(plan(tiers, attempts=1), BROKEN) == [("b", 0.0, "fallback")]


def test_none_changes_nothing_so_that_it_may_be_asked_again() -> None:
    a, b = Place("a", full=True), Place("b", full=True)
    wanted = plan([[a], [b]])
    assert wanted.next(0.0) is None
    a.full = False
    choice = wanted.next(1.0)
    assert choice is not None
    assert (choice.target, choice.why) == (a, "primary")


@pytest.mark.parametrize(
    ("tiers", "waits"),
    [
        ([[Place("a", full=True)]], True),
        ([[Place("a", open=False)]], False),
        ([[Place("a", open=False)], [Place("b", full=True)]], True),
        ([[Place("a", away=5.0)]], True),
        ([[Place("a", away=5.0, full=True)]], True),
        ([[Place("a", away=15.0)]], False),
        ([[Place("a", away=15.0, full=True)]], False),
        ([[Place("a", away=5.0, open=False)]], False),
        ([[]], False),
    ],
)
def test_waiting_is_worth_it_for_an_endpoint_at_its_limit_or_soon_back(tiers: list[list[Place]], waits: bool) -> None:
    assert plan(tiers).may_wait(0.0, until=10.0) is waits


@pytest.mark.parametrize(
    ("attempts", "kind", "waits"),
    [
        (3, ErrorKind.GENERATION_FAILED, True),
        (1, ErrorKind.GENERATION_FAILED, False),
        (3, ErrorKind.INVALID_INPUT, False),
        (3, ErrorKind.MODEL_NOT_FOUND, False),
    ],
)
def test_after_a_failure_waiting_is_worth_it_only_where_a_retry_is_due(
    attempts: int, kind: ErrorKind, waits: bool
) -> None:
    a = Place("a")
    wanted = plan([[a, Place("b", full=True)]], attempts=attempts)
    assert wanted.next(0.0) is not None
    wanted.failed(a, Failure(kind), 1.0)
    assert wanted.may_wait(0.0, until=10.0) is waits


def test_the_ejected_are_asked_only_when_nobody_else_can_be() -> None:
    a, b, c = Place("a", open=False), Place("b", open=False), Place("c")
    assert walk(plan([[a, b], [c]], ejected=[a, b]), BROKEN)[0] == ("c", 0.0, "fallback")
    assert walk(plan([[a, b]], ejected=[b]), BROKEN)[0] == ("b", 0.0, "last_resort")
    assert walk(plan([[a, b]]), BROKEN) == []


def test_further_ones_of_the_ejected_are_retries() -> None:
    places = [Place(name, open=False) for name in "abcde"]
    budget = Budget(left=1)
    assert len(walk(plan([places], attempts=5, ejected=places, budget=budget), BROKEN)) == 2
    assert len(walk(plan([places], attempts=3, ejected=places), BROKEN)) == 3
    assert len(walk(plan([places], ejected=places), Failure(ErrorKind.INVALID_INPUT))) == 1
    assert len(walk(plan([places], ejected=places), Failure(ErrorKind.OUT_OF_MEMORY))) == 1


def test_beside_a_slow_attempt_one_that_asked_to_be_left_alone_is_asked_when_its_pause_is_over() -> None:
    a, b, c = Place("a"), Place("b", away=5.0), Place("c", away=3.0)
    budget = Budget(left=1)
    wanted = plan([[a, b, c]], budget=budget, deadline=6.0)
    assert wanted.next(1.0) is not None
    choice = wanted.beside(1.0, [a])
    assert choice is not None
    assert (choice.target, choice.delay, choice.why) == (c, 2.0, "beside")
    assert wanted.beside(1.0, [a, c]) is None  # the budget is spent
    late = plan([[a, b]], deadline=4.0)
    assert late.next(1.0) is not None
    assert late.beside(1.0, [a]) is None


def test_beside_a_slow_attempt_only_another_endpoint_is_asked() -> None:
    a, b = Place("a"), Place("b")
    wanted = plan([[a, b]], attempts=5)
    first = wanted.next(0.0)
    assert first is not None
    second = wanted.beside(1.0, [a])
    assert second is not None
    assert second.target is b
    assert wanted.beside(2.0, [a, b]) is None


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.integers(1, 6),
    st.lists(st.sampled_from(list(ErrorKind)), min_size=1, max_size=20),
    st.integers(0, 5),
)
def test_attempts_are_bounded_and_no_tier_is_entered_whose_model_is_unknown(
    sizes: list[int], attempts: int, kinds: list[ErrorKind], budget: int
) -> None:
    places = {
        f"{tier}.{number}": Place(f"{tier}.{number}") for tier, size in enumerate(sizes) for number in range(size)
    }
    tiers = [[places[f"{tier}.{number}"] for number in range(size)] for tier, size in enumerate(sizes)]
    money = Budget(left=budget)
    made = walk(plan(tiers, attempts=attempts, budget=money), *[Failure(kind) for kind in kinds])
    visited = [int(name.split(".")[0]) for name, *_ in made]
    for number, tier in enumerate(visited[:-1]):
        if kinds[min(number, len(kinds) - 1)] in (ErrorKind.MODEL_NOT_FOUND, ErrorKind.CONTEXT_LENGTH_EXCEEDED):
            assert min(visited[number + 1 :]) > tier
    assert len(made) <= max(attempts, 1) + len(sizes) - 1
    assert len(made) <= len(sizes) + budget


def test_a_hedge_goes_to_an_untried_present_endpoint_of_the_same_tier_and_is_paid_for() -> None:
    a, b, away, other = Place("a"), Place("b"), Place("away", away=5.0), Place("other")
    wanted = plan([[a, b, away], [other]])
    paid = []

    def withdraw(now: float) -> bool:
        paid.append(now)
        return True

    assert wanted.hedge(1.0, [], withdraw) is None
    first = wanted.next(1.0)
    assert first is not None
    assert first.target is a
    hedge = wanted.hedge(1.5, [a], withdraw)
    assert hedge is not None
    assert (hedge.target, hedge.why, hedge.delay) == (b, "hedge", 0.0)
    assert wanted.hedge(1.6, [a, b], withdraw) is None
    assert paid == [1.5]


def test_a_hedge_counts_as_an_attempt_and_is_not_made_without_budget() -> None:
    wanted = plan([[Place("a"), Place("b"), Place("c")]], attempts=2)
    wanted.next(1.0)
    assert wanted.hedge(1.0, [Place("a")], lambda now: False) is None
    assert wanted.hedge(1.0, [Place("a")], lambda now: True) is not None
    assert wanted.hedge(1.0, [Place("a")], lambda now: True) is None


def test_an_endpoint_is_asked_again_for_less_within_attempts_and_budget() -> None:
    a = Place("a")
    budget = Budget(left=1)
    wanted = plan([[a]], attempts=3, budget=budget)
    wanted.next(1.0)
    a.open = False
    assert wanted.again(a, 1.0) is None
    a.open = True
    again = wanted.again(a, 1.0)
    assert again is not None
    assert (again.target, again.why) == (a, "shrunk")
    assert wanted.again(a, 1.0) is None
    assert wanted.budget_exhausted


def test_one_that_is_started_beside_a_silent_one_says_so() -> None:
    a, b = Place("a"), Place("b")
    wanted = plan([[a, b]])
    wanted.next(1.0)
    beside = wanted.beside(31.0, [a])
    assert beside is not None
    assert (beside.target, beside.why) == (b, "beside")


def test_moving_on_from_a_failed_endpoint_to_a_sound_one_needs_no_budget() -> None:
    broke = Budget(left=0)
    for good, kind, made in (
        (True, ErrorKind.BACKEND_UNREACHABLE, True),
        (True, ErrorKind.GENERATION_FAILED, True),
        (True, ErrorKind.MODEL_OVERLOADED, False),  # busy: more load makes it worse
        (True, ErrorKind.INFERENCE_TIMEOUT, False),  # slow, and so may be the tier
        (False, ErrorKind.BACKEND_UNREACHABLE, False),
    ):
        a, b = Place("a"), Place("b", good=good)
        wanted = plan([[a, b]], budget=broke)
        wanted.next(1.0)
        wanted.failed(a, Failure(kind), 1.0)
        assert (wanted.next(1.0) is not None) is made, (good, kind)
    assert broke.taken == 0


def test_an_endpoint_that_could_not_be_reached_comes_after_those_that_can() -> None:
    a, b = Place("a", missed=True), Place("b")
    choice = plan([[a, b]]).next(1.0)
    assert choice is not None
    assert choice.target is b
    b.missed = True
    assert plan([[a, b]]).next(1.0) is not None


def test_one_whose_device_is_unwell_is_asked_last_and_is_not_taken_for_gone() -> None:
    a, b = Place("a", strained=True), Place("b")
    for _ in range(4):
        choice = plan([[a, b]]).next(1.0)
        assert choice is not None
        assert choice.target is b
    b.open = False
    choice = plan([[a, b]]).next(1.0)
    assert choice is not None
    assert choice.target is a


@pytest.mark.parametrize(
    ("places", "failure", "recovers"),
    [
        ([Place("a", open=False)], None, True),
        ([Place("a", open=False), Place("b")], None, False),
        ([Place("a", open=False), Place("b", full=True)], None, False),  # only at its limit: another sort of wait
        ([Place("a", missed=True)], ErrorKind.BACKEND_UNREACHABLE, True),
        ([Place("a")], ErrorKind.GENERATION_FAILED, False),  # there, and failing: the client is told at once
        ([Place("a"), Place("b", open=False, due=5.0)], ErrorKind.GENERATION_FAILED, True),  # b is to be back
        ([Place("a"), Place("b", open=False, due=500.0)], ErrorKind.GENERATION_FAILED, False),
        ([Place("a"), Place("b", open=False)], ErrorKind.GENERATION_FAILED, False),  # nobody knows when
        ([Place("a", open=False)], ErrorKind.INVALID_INPUT, False),
        ([Place("a", open=False)], ErrorKind.INFERENCE_TIMEOUT, False),  # silent: never asked again
    ],
)
def test_waiting_makes_sense_when_everything_left_is_out(
    places: list[Place], failure: ErrorKind | None, recovers: bool
) -> None:
    wanted = plan([places])
    if failure is not None:
        wanted.failed(places[0], Failure(failure), 1.0)
    assert wanted.may_recover(1.0, 99.0) is recovers


def test_one_that_came_back_is_asked_beyond_attempts_twice_at_most_and_is_counted() -> None:
    a, charged = Place("a"), []
    wanted = plan([[a]], attempts=1, budget=Budget(0), charge=charged.append)
    wanted.next(1.0)
    wanted.failed(a, Failure(ErrorKind.BACKEND_UNREACHABLE), 1.0)
    assert wanted.next(2.0) is None
    assert wanted.recovered(2.0) is None
    for at in (3.0, 4.0):
        a.back_at = at
        choice = wanted.recovered(at)
        assert choice is not None
        assert (choice.target, choice.why) == (a, "recovered")
        wanted.failed(a, Failure(ErrorKind.BACKEND_UNREACHABLE), at)
    a.back_at = 5.0
    assert wanted.recovered(5.0) is None
    assert charged == [3.0, 4.0]


@pytest.mark.parametrize(("resumes", "names"), [(0, []), (1, ["c"]), (2, ["c", "d"])])
def test_an_answer_that_broke_is_resumed_even_when_all_attempts_went_into_beginning_it(
    resumes: int, names: list[str]
) -> None:
    a, b, c, d = (Place(name) for name in "abcd")
    wanted = plan([[a, b, c, d]], attempts=2, resumes=resumes)
    first = wanted.next(0.0)
    assert first is not None
    wanted.failed(first.target, BROKEN, 0.0)
    begun = wanted.next(0.0)
    assert begun is not None
    broken, found = begun.target, []
    for _ in range(3):
        wanted.broke(broken, BROKEN, 0.0)
        choice = wanted.resume(0.0, lambda place: place is not a)
        if choice is None:
            break
        broken = choice.target
        found.append(broken.name)
    assert found == names


def test_an_answer_that_broke_goes_back_to_a_tier_that_was_passed_over_when_it_began() -> None:
    a, c = Place("a", open=False), Place("c")
    wanted = plan([[a], [c]], resumes=1)
    begun = wanted.next(0.0)
    assert begun is not None
    assert begun.target is c
    wanted.broke(c, BROKEN, 1.0)
    a.open = True
    choice = wanted.resume(1.0, lambda place: True)
    assert choice is not None
    assert (choice.target, choice.why) == (a, "resume")


def test_an_answer_that_broke_goes_on_at_one_ejected_beyond_what_may_be_when_nobody_else_is_left() -> None:
    a, b = Place("a"), Place("b", open=False)
    wanted = plan([[a, b]], resumes=1, ejected=[b])
    assert wanted.next(0.0) is not None
    wanted.broke(a, BROKEN, 1.0)
    choice = wanted.resume(1.0, lambda place: True)
    assert choice is not None
    assert (choice.target, choice.why) == (b, "last_resort")


DOUBTFUL = Failure(ErrorKind.INVALID_INPUT, elsewhere=Elsewhere.ONCE, blame=Blame.NONE)


def test_what_may_be_the_requests_fault_is_tried_at_one_more_endpoint() -> None:
    a, b, c, d = Place("a"), Place("b"), Place("c"), Place("d")
    budget = Budget()
    p = plan([[a, b, c], [d]], attempts=5, budget=budget)
    assert chosen(p) == (a, "primary")
    p.failed(a, DOUBTFUL, 0.0)
    assert chosen(p) == (b, "retry")
    assert budget.taken == 1
    p.failed(b, DOUBTFUL, 0.0)
    assert p.next(0.0) is None


def test_it_is_never_tried_again_at_the_same_endpoint_and_a_fallback_is_as_good_as_another() -> None:
    a, b = Place("a"), Place("b")
    alone = plan([[a]], attempts=5)
    assert chosen(alone) == (a, "primary")
    alone.failed(a, DOUBTFUL, 0.0)
    assert alone.next(0.0) is None
    p = plan([[a], [b]], attempts=5)
    assert chosen(p) == (a, "primary")
    p.failed(a, DOUBTFUL, 0.0)
    assert chosen(p) == (b, "fallback")
    p.failed(b, Failure(ErrorKind.BACKEND_UNREACHABLE), 0.0)
    assert chosen(p) == (b, "retry_same")  # and not a, which is in an earlier tier


def chosen(p: AttemptPlan[Place]) -> tuple[Place, str] | None:
    choice = p.next(0.0)
    return (choice.target, choice.why) if choice is not None else None


def test_nothing_is_started_that_cannot_be_in_time() -> None:
    slow, quick = Place("slow", quickest=2.0), Place("quick", quickest=0.5)
    p = plan([[slow, quick]], deadline=10.0)
    assert chosen_at(p, 8.5) == (quick, "primary")
    p.failed(quick, Failure(ErrorKind.BACKEND_UNREACHABLE), 8.6)
    assert chosen_at(p, 8.6) is None
    assert p.too_late
    assert p.hedge(8.6, [quick], lambda now: True) is None
    in_time = plan([[slow, quick]], deadline=11.0)
    assert chosen_at(in_time, 8.5) == (slow, "primary")
    assert not in_time.too_late


def test_with_ample_time_nothing_is_asked_about_it() -> None:
    p = plan([[Place("a", quickest=1e9)]], deadline=1000.0)
    assert chosen_at(p, 0.0) is not None


def test_a_pause_counts_towards_what_an_attempt_needs() -> None:
    a, b = Place("a"), Place("b", quickest=1.0, away=2.5)
    for deadline, choice in ((3.0, None), (4.0, b)):
        p = plan([[a, b]], deadline=deadline)
        assert chosen_at(p, 0.0) == (a, "primary")
        beside = p.beside(0.0, [a])
        assert (beside.target if beside is not None else None) is choice


def chosen_at(p: AttemptPlan[Place], now: float) -> tuple[Place, str] | None:
    choice = p.next(now)
    return (choice.target, choice.why) if choice is not None else None


def test_an_endpoint_that_is_back_but_has_no_slot_is_worth_waiting_for() -> None:
    a = Place("a")
    p = plan([[a]], attempts=1)
    assert chosen_at(p, 0.0) == (a, "primary")
    p.failed(a, Failure(ErrorKind.BACKEND_UNREACHABLE), 1.0)
    a.full = True
    assert not p.may_recover(2.0, 99.0)
    a.back_at = 1.5
    assert p.may_recover(2.0, 99.0)
    assert p.recovered(2.0) is None
    a.full = False
    choice = p.recovered(2.5)
    assert choice is not None
    assert (choice.target, choice.why) == (a, "recovered")


def test_one_that_this_request_was_at_is_not_waited_for_while_another_fails_it() -> None:
    a, b = Place("a"), Place("b")
    p = plan([[a, b]], attempts=2)
    assert chosen_at(p, 0.0) == (a, "primary")
    p.failed(a, Failure(ErrorKind.GENERATION_FAILED), 0.0)
    assert chosen_at(p, 0.0) == (b, "retry")
    p.failed(b, Failure(ErrorKind.GENERATION_FAILED), 0.0)
    a.open, a.due = False, 5.0
    assert not p.may_recover(1.0, 99.0)


def test_an_attempt_that_was_never_made_is_not_counted() -> None:
    a, b, c = Place("a"), Place("b"), Place("c")
    p = plan([[a, b, c]], attempts=2)
    assert chosen_at(p, 0.0) == (a, "primary")
    p.failed(a, Failure(ErrorKind.GENERATION_FAILED), 0.0)
    assert chosen_at(p, 0.0) == (b, "retry")
    p.forgo()
    assert chosen_at(p, 0.0) == (c, "retry")
    assert chosen_at(p, 0.0) is None


def last(tier: Sequence[Place], now: float) -> Place | None:
    """The last one, if it is all right: nobody else would choose it."""
    return tier[-1] if tier[-1].usable(now) and not tier[-1].avoided() else None


def test_a_first_attempt_goes_to_what_the_glance_found() -> None:
    tier = [Place(f"{number}") for number in range(20)]
    choice = plan([tier], glance=last).next(0.0)
    assert choice is not None
    assert (choice.target, choice.delay, choice.why) == (tier[19], 0.0, "primary")


def test_where_the_glance_finds_none_every_endpoint_is_looked_at() -> None:
    tier = [*(Place(f"{number}") for number in range(19)), Place("bad", open=False)]
    assert chosen_at(plan([tier], glance=last), 0.0) == (tier[0], "primary")


def test_what_the_glance_found_is_not_asked_when_it_cannot_answer_in_time() -> None:
    tier = [Place("a"), Place("slow", quickest=50.0)]
    assert chosen_at(plan([tier], glance=last, deadline=20.0), 0.0) == (tier[0], "primary")


def test_a_glance_at_the_next_tier_finds_a_fallback() -> None:
    out, spare = Place("out", open=False), Place("spare")
    assert chosen_at(plan([[out], [Place("other"), spare]], glance=last), 0.0) == (spare, "fallback")


def test_after_a_failure_every_endpoint_of_a_large_tier_is_looked_at() -> None:
    tier = [Place(f"{number}") for number in range(20)]
    way = plan([tier], glance=last)
    first = way.next(0.0)
    assert first is not None
    way.failed(first.target, Failure(ErrorKind.BACKEND_UNREACHABLE), 0.0)
    second = way.next(0.0)
    assert second is not None
    assert (second.target, second.why) == (tier[0], "retry")
