"""A request's plan through any sequence of attempts, failures, breaks and recoveries: what always holds."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from policies.outcome import Blame, Elsewhere, ErrorKind, Failure
from policies.plan import MAX_RECOVERIES, AttemptPlan
from policies.target import LAST_RESORT, RECOVERED, RESUME, Choice, PlanRules

ON = frozenset(
    {
        ErrorKind.BACKEND_UNREACHABLE,
        ErrorKind.MODEL_OVERLOADED,
        ErrorKind.GENERATION_FAILED,
        ErrorKind.INFERENCE_TIMEOUT,
    }
)
DOUBTFUL = Failure(ErrorKind.INVALID_INPUT, elsewhere=Elsewhere.ONCE, blame=Blame.NONE)
FAILURES = st.one_of(
    *[st.sampled_from(sorted(ON)).map(Failure)] * 4,  # mostly those that a request outlives
    st.sampled_from(list(ErrorKind)).map(Failure),
    st.just(DOUBTFUL),
    st.integers(100, 3000).map(lambda n: Failure(ErrorKind.CONTEXT_LENGTH_EXCEEDED, details={"max_length": n})),
)
DEADLINE = 20.0


@dataclass(eq=False)
class Place:
    """An endpoint in any state."""

    name: str
    tier: int
    context_length: int | None = None
    up: bool = True
    full: bool = False
    away: float = 0.0
    missed: bool = False
    good: bool = False
    back_at: float = 0.0
    answered_at: float = 0.0
    due: float = 0.0
    quickest: float = 0.0
    ejected: bool = False

    def least(self, now: float) -> float:
        return self.quickest

    def usable(self, now: float) -> bool:
        return self.up and not self.full

    def busy(self, now: float) -> bool:
        return self.up and self.full

    def away_until(self) -> float:
        return self.away

    def doubtful(self) -> bool:
        return self.missed

    def avoided(self) -> bool:
        return self.missed

    def sound(self) -> bool:
        return self.good and not self.missed

    def recovered_since(self, at: float, now: float) -> bool:
        return self.back_at > at

    def back_by(self, until: float, now: float) -> bool:
        return now < self.due <= until

    def answered_since(self, at: float) -> bool:
        return self.answered_at > at


class PlanMachine(RuleBasedStateMachine):
    """One attempt at a time, as `gateway.attempts` and `gateway.failover` go through it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.running: Choice[Place] | None = None
        self.begun = False  # whether the answer has begun: from then on there are only resumes
        self.made: list[tuple[Choice[Place], float]] = []
        self.silent: set[str] = set()
        self.broken: set[str] = set()
        self.returns: list[str] = []  # endpoints that the answer went back to after it had broken there
        self.doubts = 0
        self.first = 0  # the tiers before it have said that they can't
        self.last: Failure | None = None
        self.over = False

    @initialize(sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3), attempts=st.integers(1, 5),
                resumes=st.integers(0, 3), money=st.integers(0, 6))  # fmt: skip
    def begin(self, sizes: list[int], attempts: int, resumes: int, money: int) -> None:
        self.tiers = [[Place(f"{t}.{n}", t) for n in range(size)] for t, size in enumerate(sizes)]
        self.places = [place for tier in self.tiers for place in tier]
        self.attempts, self.resumes, self.money = attempts, resumes, money
        self.spent = 0
        self.charged: list[float] = []
        rules: PlanRules[Place] = PlanRules(
            self.tiers,
            max_attempts=attempts,
            max_resumes=resumes,
            on=ON,
            backoff=lambda number: 0.1 * number,
            withdraw=self.withdraw,
            pick=lambda places, now, key: places[0],
            ejected=lambda tier, now: [place for place in tier if place.ejected and not place.up],
            charge=self.charged.append,
        )
        self.plan = AttemptPlan(rules, DEADLINE)

    def withdraw(self, now: float) -> bool:
        self.spent += self.spent < self.money
        return self.spent < self.money

    @rule(data=st.data(), up=st.booleans(), full=st.booleans(), missed=st.booleans(), good=st.booleans(),
          away=st.sampled_from([0.0, 3.0, 100.0]), quickest=st.sampled_from([0.0, 1.0, 12.0]),
          ejected=st.booleans(), context=st.sampled_from([None, 1000, 4000]))  # fmt: skip
    def something_happens(self, data: st.DataObject, up: bool, full: bool, missed: bool, good: bool, away: float,
                          quickest: float, ejected: bool, context: int | None) -> None:  # fmt: skip
        self.now += 0.01
        place = data.draw(st.sampled_from(self.places))
        place.up, place.full, place.missed, place.good, place.ejected = up, full, missed, good, ejected
        place.away, place.quickest, place.context_length = self.now + away if away else 0.0, quickest, context
        if up and not missed:
            place.back_at = place.answered_at = self.now

    @rule(seconds=st.sampled_from([0.1, 1.0, 7.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    def all_come_back(self) -> None:
        self.now += 0.01
        for place in self.places:
            place.up, place.full, place.missed, place.away, place.back_at = True, False, False, 0.0, self.now

    @precondition(lambda self: self.running is None and not self.begun)
    @rule()
    def next(self) -> None:
        self.took(self.plan.next(self.now))

    @precondition(lambda self: self.running is None and not self.begun)
    @rule(back=st.booleans())
    def recovered(self, back: bool) -> None:
        if back:
            self.all_come_back()
        choice = self.plan.recovered(self.now)
        assert choice is None or choice.target.back_at > 0.0
        self.took(choice)

    @precondition(lambda self: self.running is None and self.begun)
    @rule(fit=st.booleans(), back=st.booleans())
    def resume(self, fit: bool, back: bool) -> None:
        if back:
            self.all_come_back()
        choice = self.plan.resume(self.now, lambda place: fit or place.tier == 0)
        assert choice is None or choice.target.name not in self.broken or choice.target.answered_at > 0.0
        assert choice is None or fit or choice.target.tier == 0
        assert choice is None or choice.why in (RESUME, LAST_RESORT, RECOVERED)
        if choice is None and self.plan.may_resume_later(self.now, DEADLINE, lambda place: True):
            assert self.broken != {place.name for place in self.places}
        self.took(choice)

    @precondition(lambda self: self.running is None and self.made and not self.over)
    @rule(times=st.integers(1, 12))
    def all_come_back_and_fail_again(self, times: int) -> None:
        """Several times in one step: the limit on recoveries shows only when everything else is used up."""
        failure = Failure(ErrorKind.BACKEND_UNREACHABLE)
        for _ in range(times):
            self.all_come_back()
            plan, now = self.plan, self.now
            self.took(plan.resume(now, lambda place: True) if self.begun else plan.recovered(now))
            if self.running is not None:
                plan.failed(self.running.target, failure, now)
                self.ended(failure)

    @precondition(lambda self: self.running is not None)
    @rule(failure=FAILURES)
    def fails(self, failure: Failure) -> None:
        assert self.running is not None
        self.plan.failed(self.running.target, failure, self.now)
        self.ended(failure)

    @precondition(lambda self: self.running is not None)
    @rule(failure=FAILURES)
    def breaks(self, failure: Failure) -> None:
        assert self.running is not None
        self.broken.add(self.running.target.name)
        self.begun = True
        self.plan.broke(self.running.target, failure, self.now)
        self.ended(failure)

    @precondition(lambda self: self.running is not None and self.running.delay > 0)
    @rule()
    def was_gone_when_its_turn_came(self) -> None:
        self.plan.forgo()
        self.made.pop()
        self.running = None

    def took(self, choice: Choice[Place] | None) -> None:
        if choice is None:
            return
        target, start = choice.target, self.now + choice.delay
        assert not self.over, "a request that must not go on"
        assert start + target.quickest < DEADLINE
        assert target.name not in self.silent or target.name in self.broken
        assert target.usable(self.now) or choice.why in (RESUME, LAST_RESORT)
        assert target.away <= self.now
        assert target.tier >= self.first or self.begun
        assert target.up or (target.ejected and choice.why == LAST_RESORT)
        if target.name in self.broken:
            self.returns.append(target.name)
        self.made.append((choice, self.now))
        self.running = choice

    def ended(self, failure: Failure) -> None:
        assert self.running is not None
        self.doubts += failure.elsewhere is Elsewhere.ONCE
        if failure.kind is ErrorKind.INFERENCE_TIMEOUT:
            self.silent.add(self.running.target.name)
        if failure.elsewhere in (Elsewhere.NEXT_TIER, Elsewhere.LONGER_CONTEXT):
            self.first = max(self.first, self.running.target.tier + 1)
        self.last = failure
        self.over = failure.elsewhere is Elsewhere.NO or self.doubts > 1
        self.running = None

    @invariant()
    def attempts_are_bounded(self) -> None:
        if not hasattr(self, "plan"):
            return
        recoveries = sum(choice.why == RECOVERED for choice, _ in self.made)
        assert recoveries == len(self.charged) <= MAX_RECOVERIES
        most = max(1, self.attempts) + len(self.tiers) - 1 + self.resumes * bool(self.broken)
        assert len(self.made) - recoveries <= most

    @invariant()
    def each_tier_has_one_attempt_that_needs_no_budget(self) -> None:
        granted = [choice.target.tier for choice, _ in self.made if choice.why in ("primary", "fallback")]
        assert len(granted) == len(set(granted))


PlanMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)
TestPlan = PlanMachine.TestCase
