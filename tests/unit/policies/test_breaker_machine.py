"""The circuit breaker against a plain model of it, under any sequence of events."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from policies.breaker import BreakerSettings, CircuitBreaker, Permit, SlowCallSettings, State, Verdict

PERMIT_TIMEOUT = 60.0
SETTINGS = BreakerSettings(
    window=10.0,
    min_requests=4,
    failure_ratio=0.5,
    consecutive_failures=3,
    slow_call=SlowCallSettings(over=5.0, ratio=0.75),
    open_for=2.0,
    max_open_for=16.0,
    half_open_probes=3,
)


class Model:
    """The same rules said with lists: every counted outcome with its bucket."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[int, Verdict, bool]] = []
        self.row = 0

    def opens(self, verdict: Verdict, slow: bool, now: float) -> bool:
        if verdict is Verdict.NEUTRAL:
            return False
        bucket = int(now / 1.0)
        self.outcomes.append((bucket, verdict, slow))
        recent = [outcome for outcome in self.outcomes if outcome[0] > bucket - 10]
        failed = verdict is Verdict.FAILURE
        self.row = self.row + 1 if failed else 0
        failures = sum(outcome[1] is Verdict.FAILURE for outcome in recent)
        slows = sum(outcome[2] for outcome in recent)
        enough = len(recent) >= SETTINGS.min_requests
        by_ratio = enough and failed and failures / len(recent) >= SETTINGS.failure_ratio
        return (
            self.row >= SETTINGS.consecutive_failures or by_ratio or (enough and slow and slows / len(recent) >= 0.75)
        )


class BreakerMachine(RuleBasedStateMachine):
    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.seen: list[State] = [State.CLOSED]
        self.circuit = CircuitBreaker(SETTINGS, lambda: 0.5, self.seen.append, PERMIT_TIMEOUT)
        self.model = Model()
        self.round: dict[Permit, float] = {}  # half-open permits out, and when they were handed out

    @rule(seconds=st.sampled_from([0.01, 0.5, 1.0, 2.0, 5.0, 20.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=permits, early=st.booleans())
    def acquire(self, early: bool) -> object:
        allowed = self.circuit.allows_early(self.now) if early else self.circuit.allows(self.now)
        was_open = self.circuit.state(self.now) is State.OPEN
        permit = self.circuit.acquire_early(self.now) if early else self.circuit.acquire(self.now)
        assert (permit is not None) is allowed
        if permit is None:
            return multiple()
        assert early or not was_open
        if self.seen[-1] is not State.CLOSED:
            assert permit not in self.round
            self.round[permit] = self.now
        return permit

    @rule(permit=consumes(permits), verdict=st.sampled_from(Verdict), seconds=st.sampled_from([0.1, 9.0]))
    def record(self, permit: Permit, verdict: Verdict, seconds: float) -> None:
        before = self.seen[-1]
        counted = before is State.CLOSED and permit == self.circuit.acquire(self.now)
        self.circuit.record(permit, verdict, seconds, self.now)
        self.round.pop(permit, None)
        after = self.seen[-1]
        if before is State.CLOSED:
            opens = counted and self.model.opens(verdict, seconds > 5.0, self.now)
            assert after is (State.OPEN if opens else State.CLOSED)
        elif verdict is Verdict.NEUTRAL:
            assert after is before
        elif verdict is Verdict.FAILURE:
            assert after is State.OPEN or after is before
        else:
            assert before is State.HALF_OPEN or after is not State.CLOSED  # no way past half-open
        if after is not before and after is not State.HALF_OPEN:
            self.round.clear()
            self.model = Model()

    @rule()
    def health_check_is_good(self) -> None:
        self.circuit.end_open_time(self.now)

    @invariant()
    def never_more_probes_out_than_allowed(self) -> None:
        live = sum(self.now - since < PERMIT_TIMEOUT for since in self.round.values())
        assert live <= SETTINGS.half_open_probes

    @invariant()
    def never_open_for_longer_than_the_longest(self) -> None:
        if self.circuit.state(self.now) is State.OPEN:
            assert 0.0 < (self.circuit.retry_after(self.now) or 0.0) <= SETTINGS.max_open_for

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.circuit._permits) <= 4 * SETTINGS.half_open_probes

    def teardown(self) -> None:
        """Never stuck: from any state, time and good answers close it."""
        self.now += max(SETTINGS.max_open_for, PERMIT_TIMEOUT)
        for _ in range(SETTINGS.half_open_probes):
            permit = self.circuit.acquire(self.now)
            assert permit is not None
            self.circuit.record(permit, Verdict.SUCCESS, 0.1, self.now)
        assert self.circuit.state(self.now) is State.CLOSED


BreakerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestBreaker = BreakerMachine.TestCase
