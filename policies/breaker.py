"""A circuit breaker: takes a failing endpoint out of rotation and lets a few requests find out when it is back.

Closed, it counts outcomes in a sliding time window (failsafe-go's time-based thresholding, resilience4j's slow calls).
Open, it refuses. After `open_for` it is half-open: a limited number of permits, and only good results close it.

Outcomes are three-way. Success and failure are evidence. Neutral is none (429, 503: alive and busy; the client's own
errors; a client that left): it neither opens nor closes, and gives a half-open permit back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from math import inf

from policies.window import OutcomeWindow

#: Share by which an open time is shortened at random, so that replicas and endpoints don't all probe at once.
_JITTER = 0.1
#: Seconds from a circuit's opening to an endpoint's first early try, doubling from one to the next, and at most.
FIRST_EARLY = 0.25
EARLY_INTERVAL = 1.0
#: Overdue permits remembered as a multiple of `half_open_probes`.
_REMEMBERED = 4
_MAX_STREAK = 64

#: What `acquire` gives and `record` takes back. Opaque.
Permit = int


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Verdict(Enum):
    """What an attempt says of its endpoint."""

    SUCCESS = "success"
    NEUTRAL = "neutral"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class SlowCallSettings:
    """A success after more than `over` seconds is slow; a share of `ratio` slow ones opens the circuit."""

    over: float
    ratio: float


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """`circuit_breaker` of a policy but for `max_ejected`, which is a tier's matter; durations in seconds."""

    window: float
    min_requests: int
    failure_ratio: float
    consecutive_failures: int
    slow_call: SlowCallSettings | None
    open_for: float
    max_open_for: float
    half_open_probes: int


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """For operators. Counts are those of the window; `retry_after` as in `CircuitBreaker`."""

    state: State
    requests: int
    failures: int
    slow: int
    consecutive_failures: int
    retry_after: float | None
    permits_out: int


@dataclass(frozen=True, slots=True)
class SavedBreaker:
    """State that outlives the object, with times relative to when it was exported: clocks differ between processes."""

    state: str
    remaining: float
    streak: int
    forced: bool


# Enum members under global names: each access through the class costs as much as the rest of `acquire`.
_CLOSED, _OPEN, _HALF_OPEN = State
_SUCCESS, _NEUTRAL, _FAILURE = Verdict


class CircuitBreaker:
    """The breaker of one endpoint. Every permit is to be given back through `record`, once.

    A result counts only in the state that permitted it: one that comes when the circuit has opened or closed since is
    ignored. A half-open permit that is out for more than `permit_timeout` seconds no longer keeps another from being
    handed out; its result still counts if it comes in the same half-open round.
    """

    __slots__ = (
        "_broken_streams",
        "_consecutive",
        "_early_at",
        "_early_interval",
        "_epoch",
        "_forced",
        "_good",
        "_last_open",
        "_on_change",
        "_open_until",
        "_permit_timeout",
        "_permits",
        "_rand",
        "_serial",
        "_slow_over",
        "_slow_probes",
        "_state",
        "_streak",
        "_window",
        "closed",
        "closed_at",
        "settings",
    )

    def __init__(
        self,
        settings: BreakerSettings,
        rand: Callable[[], float],
        on_change: Callable[[State], None] | None = None,
        permit_timeout: float = 60.0,
    ) -> None:
        """`rand` is uniform in [0, 1). `on_change` is called with the new state after each transition; half-open begins
        with its first permit."""
        self.settings = settings
        self._rand = rand
        self._permit_timeout = permit_timeout
        self._on_change = on_change
        self._window = OutcomeWindow(settings.window)
        self._slow_over = settings.slow_call.over if settings.slow_call is not None else inf
        self._state: State = _CLOSED
        self.closed = True
        """Whether it is: a plain attribute, as several endpoints are asked for each request."""
        self.closed_at = -inf
        """When it last closed; minus infinity if it never was open."""
        self._serial = 1  # of the last permit
        self._epoch = 1  # the permit of a closed circuit; half-open ones have a higher serial each
        self._permits: dict[Permit, float] = {}  # half-open and early ones, and when they are overdue
        self._forced = False
        self._open_until = 0.0
        self._last_open = 0.0  # length of the last open time
        self._streak = 0  # times it opened without a good while in between
        self._early_at = -inf  # when the next early permit may be handed out
        self._early_interval = FIRST_EARLY
        self._good = self._slow_probes = 0  # results of this half-open round
        self._consecutive = 0
        self._broken_streams = 0  # in a row, whatever other requests came to in between

    # -- asking --------------------------------------------------------------------------------------------------------

    def state(self, now: float) -> State:
        """What a request would meet now: half-open as soon as the open time is over."""
        if self._state is _OPEN and now >= self._open_until:
            return _HALF_OPEN
        return self._state

    @property
    def forced(self) -> bool:
        """Whether an operator keeps it open."""
        return self._forced

    @property
    def sound(self) -> bool:
        """Whether nothing speaks against the endpoint: closed, and its last result was not a failure."""
        return self._state is _CLOSED and self._consecutive == 0

    def allows(self, now: float) -> bool:
        """Whether `acquire` would give a permit. Changes nothing."""
        if self._state is _CLOSED:
            return True
        if self._state is _OPEN:
            return now >= self._open_until
        return self._has_permit(now)

    def acquire(self, now: float) -> Permit | None:
        """A permit for one attempt, or None: the circuit is open, or half-open with all its permits out."""
        if self._state is _CLOSED:
            return self._epoch
        if self._state is _OPEN:
            if now < self._open_until:
                return None
            self._enter(_HALF_OPEN)
        return self._hand_out(now) if self._has_permit(now) else None

    def allows_early(self, now: float) -> bool:
        """Whether `acquire_early` would give a permit. Changes nothing."""
        if self._state is not _OPEN or now >= self._open_until:
            return self.allows(now)
        return not self._forced and now >= self._early_at and self._has_permit(now)

    def acquire_early(self, now: float) -> Permit | None:
        """A permit even while the circuit is open, for when nothing else is left; at growing intervals.

        A good result makes the circuit half-open at once; a bad one leaves it open as long as it was to be.
        """
        if self._state is not _OPEN or now >= self._open_until:
            return self.acquire(now)
        if not self.allows_early(now):
            return None
        self._wait_for_early(now)
        return self._hand_out(now)

    def retry_after(self, now: float) -> float | None:
        """Seconds until a permit can be had; None when one can be had now, or nobody knows (forced open)."""
        if self._state is _OPEN:
            return self._open_until - now if now < self._open_until and not self._forced else None
        if self._state is _CLOSED or self._has_permit(now):
            return None
        return min([due for due in self._permits.values() if due > now]) - now

    def snapshot(self, now: float) -> BreakerSnapshot:
        """How it stands."""
        window = self._window
        window.advance(now)
        return BreakerSnapshot(
            state=self.state(now),
            requests=window.requests,
            failures=window.failures,
            slow=window.slow,
            consecutive_failures=self._consecutive,
            retry_after=self.retry_after(now),
            permits_out=self._out(now),
        )

    def awaits(self, permit: Permit) -> bool:
        """Whether this permit's result decides whether the circuit closes. Not so while it is closed."""
        return permit in self._permits

    # -- results -------------------------------------------------------------------------------------------------------

    def record(self, permit: Permit, verdict: Verdict, seconds: float, now: float, *, streamed: bool = False) -> None:
        """Takes an attempt's result; `seconds` is how long its first token took.

        Of `streamed` answers, which begin before they can break, as many failures in a row as of all: else an endpoint
        that breaks each stream would stay for the sake of its whole answers.
        """
        if self._state is not _CLOSED:
            if self._permits.pop(permit, None) is not None:
                self._judge_probe(verdict, seconds > self._slow_over, now)
        elif permit == self._epoch and verdict is not _NEUTRAL:
            if streamed:
                self._broken_streams = self._broken_streams + 1 if verdict is _FAILURE else 0
            self._count(verdict is _FAILURE, seconds > self._slow_over, now)

    # -- operators, checks, other replicas -----------------------------------------------------------------------------

    def trip(self, now: float) -> None:
        """An active check found the endpoint down: a closed circuit opens as after too many failures."""
        if self._state is _CLOSED:
            self._open(now)

    def end_open_time(self, now: float) -> None:
        """An active check found the endpoint answering: half-open from now on. Not when forced open."""
        if self._state is _OPEN and not self._forced:
            self._open_until = min(self._open_until, now)

    def hold_open(self, until: float) -> None:
        """Another replica finds out whether the endpoint is back: an open circuit stays open until then."""
        if self._state is _OPEN and not self._forced:
            self._open_until = max(self._open_until, until)

    def force_open(self, now: float) -> None:
        """Keeps the endpoint out until `reset`."""
        self._forced = True
        self._open_until = inf
        self._permits.clear()
        self._enter(_OPEN)

    def reset(self, now: float) -> None:
        """Closes the circuit and forgets everything."""
        self._forced = False
        self._streak = 0
        self._close(now)

    def export(self, now: float) -> SavedBreaker:
        """What `restore` takes; its fields are JSON values."""
        open_ = self._state is _OPEN and not self._forced
        remaining = max(0.0, self._open_until - now) if open_ else 0.0
        return SavedBreaker(self._state.value, remaining, self._streak, self._forced)

    def restore(self, saved: SavedBreaker, now: float) -> None:
        """Takes on another breaker's state. A half-open one becomes due for probes: its permits are not ours.

        Raises ValueError for a state that does not exist; numbers out of range are cut to it.
        """
        state = State(saved.state)
        if saved.forced:
            self.force_open(now)
            return
        self._forced = False
        self._streak = min(max(0, saved.streak), _MAX_STREAK)
        if state is _CLOSED:
            if self._state is not _CLOSED:
                self._close(now)
            return
        remaining = saved.remaining if saved.remaining > 0 else 0.0  # NaN too is 0
        self._last_open = min(remaining, self.settings.max_open_for)
        self._open_until = now + self._last_open
        self._permits.clear()
        self._enter(_OPEN)

    # -- judging -------------------------------------------------------------------------------------------------------

    def _count(self, failed: bool, slow: bool, now: float) -> None:
        window, settings = self._window, self.settings
        window.record(now, failed=failed, slow=slow)
        self._consecutive = self._consecutive + 1 if failed else 0
        if not (failed or slow):
            return  # nothing that could open it
        enough = window.requests >= settings.min_requests
        if (
            max(self._consecutive, self._broken_streams) >= settings.consecutive_failures
            or (enough and failed and window.failures >= settings.failure_ratio * window.requests)
            or (enough and slow and self._too_slow(window.slow, window.requests))
        ):
            self._open(now)

    def _judge_probe(self, verdict: Verdict, slow: bool, now: float) -> None:
        if verdict is _FAILURE:
            if self._state is _HALF_OPEN:  # a failed early try leaves things as they are
                self._open(now)
        elif verdict is _SUCCESS:
            if self._state is _OPEN:  # a good early try: the rest of the round decides
                self._enter(_HALF_OPEN)
            self._good += 1
            self._slow_probes += slow
            if self._good >= self.settings.half_open_probes:
                (self._open if self._too_slow(self._slow_probes, self._good) else self._close)(now)

    def _too_slow(self, slow: int, of: int) -> bool:
        limit = self.settings.slow_call
        return limit is not None and slow >= limit.ratio * of

    # -- permits -------------------------------------------------------------------------------------------------------

    def _out(self, now: float) -> int:
        return sum([due > now for due in self._permits.values()])

    def _has_permit(self, now: float) -> bool:
        return self._good + self._out(now) < self.settings.half_open_probes

    def _hand_out(self, now: float) -> Permit:
        permits = self._permits
        if len(permits) >= _REMEMBERED * self.settings.half_open_probes:
            del permits[next(iter(permits))]  # overdue, because the live ones are the youngest
        self._serial += 1
        permits[self._serial] = now + self._permit_timeout
        return self._serial

    def _wait_for_early(self, now: float) -> None:
        self._early_at = now + self._early_interval
        self._early_interval = min(self._early_interval * 2.0, EARLY_INTERVAL)

    # -- transitions ---------------------------------------------------------------------------------------------------

    def _open(self, now: float) -> None:
        settings = self.settings
        calm = max(settings.window, self._last_open)
        if self._state is _CLOSED and now - self.closed_at >= calm:
            self._streak = 0
        length = min(settings.open_for * 2.0**self._streak, settings.max_open_for)
        length -= length * _JITTER * self._rand()
        self._streak = min(self._streak + 1, _MAX_STREAK)
        self._last_open = length
        self._open_until = now + length
        if self._state is _CLOSED:
            self._early_interval = FIRST_EARLY
        self._wait_for_early(now)
        self._permits.clear()
        self._enter(_OPEN)

    def _close(self, now: float) -> None:
        self._permits.clear()
        self._window = OutcomeWindow(self.settings.window)
        self._consecutive = self._broken_streams = 0
        self.closed_at = now
        self._serial += 1
        self._epoch = self._serial
        self._enter(_CLOSED)

    def _enter(self, state: State) -> None:
        old, self._state = self._state, state
        self.closed = state is _CLOSED
        self._good = self._slow_probes = 0
        if old is not state and self._on_change is not None:
            self._on_change(state)
