"""Where the next attempt of one request goes: tiers in order, endpoints within them, waits between.

Rules: the first attempt of a request counts against `attempts`, the first in each other tier is granted on top; every
further one counts and, unless it moves on from a failed endpoint to a sound one, needs a withdrawal from the retry
budget, shared with hedges and resumes. Each attempt goes to the first tier that has an endpoint for it now, there to an
untried one first; going back to a tried one waits for the backoff. An endpoint that asked to be left alone is passed
over like one at its limit: nobody waits for it while another can be asked. One that stayed silent, or failed in a way
that is not to be retried, is not asked again. One that could not be reached comes after those that can. A failure that
may be the request's own is tried at one more endpoint; a second one like it is the answer. When nobody else is left and
more of a tier are ejected than may be, one of the ejected is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import Generic

from policies.outcome import Blame, Elsewhere, ErrorKind, Failure
from policies.target import HEDGE, LAST_RESORT, RECOVERED, RESUME, SHRUNK, Choice, PlanRules, T

_SILENT = frozenset({ErrorKind.INFERENCE_TIMEOUT})
#: Tried elsewhere although they are not in `retry.on`: another endpoint may well have room, or the model.
_ALWAYS_ELSEWHERE = frozenset({ErrorKind.OUT_OF_MEMORY, ErrorKind.MODEL_LOADING_FAILED, ErrorKind.MODEL_NOT_FOUND})
#: Reasons of attempts that need no budget: the first of a request, and of each other tier.
_GRANTED = frozenset({"primary", "fallback"})
#: How many attempts one request may have at endpoints that came back while it waited.
MAX_RECOVERIES = 2
#: With so many seconds left, nothing that can be known of an endpoint makes an attempt pointless.
_AMPLE = 120.0


class AttemptPlan(Generic[T]):
    """One request's plan. Not reused."""

    __slots__ = (
        "_asked",
        "_attempts",
        "_broken",
        "_counted",
        "_deadline",
        "_doubts",
        "_entered",
        "_failed_at",
        "_first",
        "_key",
        "_last",
        "_min_context",
        "_recoveries",
        "_returns",
        "_rules",
        "_spent",
        "_tier",
        "_tiers",
        "budget_exhausted",
        "too_late",
    )

    def __init__(self, rules: PlanRules[T], deadline: float, key: bytes | None = None) -> None:
        """`deadline` ends the request; requests of one `key` have something in common for the balancer."""
        self._rules = rules
        self._tiers = rules.tiers
        self._deadline = deadline
        self._key = key
        self._failed_at = 0.0
        self._recoveries = 0
        self._tier = 0
        self._first = 0  # tiers before it would say what one of them has said
        self._entered: tuple[int, ...] = ()
        self._asked: tuple[T, ...] = ()
        self._spent: tuple[T, ...] = ()  # not to be asked again
        self._broken: dict[T, float] = {}  # where the answer broke, and since when it is to have answered others
        self._attempts = 0
        self._counted = False  # whether the last choice is among them
        self._returns = 0
        self._min_context = 0
        self._doubts = 0
        self._last: Failure | None = None
        self.budget_exhausted = False
        self.too_late = False  # whether an endpoint was passed over as it could not have answered in time

    @property
    def tier(self) -> int:
        """Index of the tier that the last choice came from; 0 is the primary."""
        return self._tier

    def next(self, now: float) -> Choice[T] | None:
        """The next attempt, or None when there is nowhere to go now. None changes nothing: it may be asked again."""
        if not self._may_go_on():
            return None
        for tier in self._reach():
            choice = self._within(tier, now)
            if choice is not None:
                return self._taken(tier, choice)
        return self._from_ejected(now)

    def may_wait(self, now: float, until: float) -> bool:
        """Whether an endpoint that `next` would choose is only at its limit, or asked to be left alone no longer than
        `until`."""

        def hindered(target: T) -> bool:
            away = target.away_until()
            return away < until and (target.busy(now) or (away > now and target.usable(now)))

        return self._may_go_on() and any(
            self._granted(tier, self._open([t for t in self._tiers[tier] if hindered(t)])) is not None
            for tier in self._reach()
        )

    def may_recover(self, now: float, until: float) -> bool:
        """Whether every endpoint left to this request is out or in doubt, one that is back has no slot yet, or one that
        was not asked is out no longer than `until`; those that asked to be left alone aside."""
        last = self._last
        if last is not None and (last.elsewhere is not Elsewhere.YES or last.kind not in self._rules.on):
            return False
        targets = [t for tier in self._reach() for t in self._open(self._tiers[tier]) if t.away_until() <= now]
        out = all(target.doubtful() or not (target.usable(now) or target.busy(now)) for target in targets)
        back = any(target.busy(now) and target.recovered_since(self._failed_at, now) for target in targets)
        due = any(target not in self._asked and target.back_by(until, now) for target in targets)
        return bool(targets) and (out or back or due) and self._recoveries < MAX_RECOVERIES

    def recovered(self, now: float) -> Choice[T] | None:
        """An endpoint that came back while the request waited, which it has tried already; None when there is none.

        Beyond `attempts`, as waiting was all that was left, and counted against the budget even if that is spent.
        """
        if not self._may_go_on() or self._recoveries >= MAX_RECOVERIES:
            return None
        for tier in self._reach():
            open_ = self._in_time(self._ready(self._tiers[tier], now), now)
            back = [target for target in open_ if target.recovered_since(self._failed_at, now)]
            if back:
                return self._at_recovered(tier, back, now)
        return None

    def beside(self, now: float, running: Sequence[T]) -> Choice[T] | None:
        """Another endpoint to ask while the running ones are slow; None when there is none or no budget."""
        self._spent += tuple(target for target in running if target not in self._spent)
        choice = self.next(now) or self._after_pause(now)
        if choice is None or choice.why in _GRANTED:
            return choice
        return Choice(choice.target, choice.delay, "beside")

    def hedge(self, now: float, running: Sequence[T], withdraw: Callable[[float], bool]) -> Choice[T] | None:
        """An untried endpoint of the same tier to ask beside the running ones; None when there is none.

        It counts as an attempt. `withdraw(now)` takes it from its budgets, and says whether it may be had.
        """
        if self._attempts >= self._rules.max_attempts or len(running) == 0:
            return None
        fresh = [target for target in self._tiers[self._tier] if target not in self._asked]
        present = self._in_time(self._ready(fresh, now), now)
        if not present or not withdraw(now):
            return None
        return self._taken(self._tier, Choice(self._rules.pick(present, now, self._key), 0.0, HEDGE))

    def again(self, target: T, now: float) -> Choice[T] | None:
        """The endpoint that has just failed once more, for a smaller request; None when there is no attempt left."""
        if self._attempts >= self._rules.max_attempts or not target.usable(now) or not self._in_time([target], now):
            return None
        if not self._paid(now, target):
            return None
        return self._taken(self._tier, Choice(target, 0.0, SHRUNK))

    def resume(self, now: float, fits: Callable[[T], bool]) -> Choice[T] | None:
        """Another endpoint for an answer that broke after it had begun; `fits` says which can go on with it.

        From the same budget as other attempts, beyond which a request gets as many as its answer may be resumed. One
        that was not asked yet comes first, of whatever tier. The request was admitted, so an endpoint at its limit may
        be asked when no other can. One that failed is asked again after the backoff, one that could not be reached when
        it is back. One that this stream broke at is gone back to when nobody else is left and it has answered others
        since; at last one of those ejected beyond what may be.
        """
        if not self._may_go_elsewhere():
            return None
        if self._attempts < self._rules.max_attempts + self._rules.max_resumes:
            for tier, targets, delay, why in self._resumable(now, fits):
                choice = self._choice(_present(targets, now), now, delay, why)
                if choice is not None and self._paid(now, choice.target, left=True):
                    self._returns += why == RESUME and choice.target in self._asked
                    return self._taken(tier, choice)
        return self._resume_at_recovered(now, fits)

    def may_resume_later(self, now: float, until: float, fits: Callable[[T], bool]) -> bool:
        """Whether an endpoint that could go on with the answer is out, in doubt or on probation now, or asked to be
        left alone; not one that asked for longer than `until`."""
        if not self._may_go_elsewhere():
            return False
        used_up = self._attempts >= self._rules.max_attempts + self._rules.max_resumes
        if used_up and self._recoveries >= MAX_RECOVERIES:
            return False

        def hindered(target: T) -> bool:
            out = not (target.sound() and (target.usable(now) or target.busy(now)))
            away = target.away_until()
            return away < until and (out or (away > now and not used_up))

        return any(hindered(target) for tier in self._tiers for target in self._unbroken(tier, fits))

    def _may_go_elsewhere(self) -> bool:
        last = self._last
        if last is None or last.elsewhere is not Elsewhere.YES:
            return False
        return last.kind in self._rules.on or last.kind in _ALWAYS_ELSEWHERE

    def _resumable(self, now: float, fits: Callable[[T], bool]) -> Iterator[tuple[int, list[T], float, str]]:
        """(tier, endpoints, wait, why) in the order in which a broken answer is taken to them."""
        tiers = (*range(self._tier, len(self._tiers)), *range(self._tier))
        unbroken = {tier: self._unbroken(self._tiers[tier], fits) for tier in tiers}
        for again, delay in ((False, 0.0), (True, self._pause(now))):
            for tier in tiers:
                known = [t for t in unbroken[tier] if (t in self._asked) is again and not (again and t.doubtful())]
                yield tier, [t for t in known if t.usable(now)], delay, RESUME
                yield tier, [t for t in known if t.busy(now)], delay, RESUME
        for tier in tiers:
            yield tier, self._working_again(self._tiers[tier], now, fits), 0.0, RESUME
        for tier in tiers:
            yield tier, self._unbroken(self._rules.ejected(self._tiers[tier], now), fits), 0.0, LAST_RESORT

    def _working_again(self, targets: Sequence[T], now: float, fits: Callable[[T], bool]) -> list[T]:
        """Those where the answer broke once and others have begun since. A check alone says nothing of the engine."""
        back = [t for t in targets if t.answered_since(self._broken.get(t, inf)) and t.usable(now)]
        return [t for t in back if self._fits(t) and fits(t)]

    def _resume_at_recovered(self, now: float, fits: Callable[[T], bool]) -> Choice[T] | None:
        if self._recoveries >= MAX_RECOVERIES:
            return None
        for tier, targets in enumerate(self._tiers):
            able = self._in_time(_present(self._unbroken(targets, fits), now), now)
            back = [t for t in able if t.recovered_since(self._failed_at, now) and (t.usable(now) or t.busy(now))]
            if back:
                back = [target for target in back if target.usable(now)] or back
                return self._at_recovered(tier, back, now)
        return None

    def _at_recovered(self, tier: int, back: Sequence[T], now: float) -> Choice[T]:
        self._recoveries += 1
        self._rules.charge(now)
        return self._taken(tier, Choice(self._rules.pick(back, now, self._key), 0.0, RECOVERED))

    def _unbroken(self, targets: Sequence[T], fits: Callable[[T], bool]) -> list[T]:
        return [target for target in self._open(targets) if target not in self._broken and fits(target)]

    def forgo(self) -> None:
        """The last choice came to nothing: its endpoint had gone before it was asked, which is no attempt."""
        self._attempts -= self._counted

    def broke(self, target: T, failure: Failure, now: float, silent_for: float = 0.0) -> None:
        """Records that an answer which had begun broke there, after so many seconds of silence."""
        again = target in self._broken
        self.failed(target, failure, now)
        self._broken[target] = inf if again else now - silent_for

    def failed(self, target: T, failure: Failure, now: float) -> None:
        """Records how an attempt failed."""
        self._last = failure
        self._failed_at = now
        if target in self._broken and failure.blame is Blame.ENDPOINT:
            self._broken[target] = inf
        self._doubts += failure.elsewhere is Elsewhere.ONCE
        final = failure.kind in _SILENT or failure.kind not in self._rules.on or failure.elsewhere is Elsewhere.ONCE
        if final and target not in self._spent:
            self._spent += (target,)
        if failure.elsewhere in (Elsewhere.NEXT_TIER, Elsewhere.LONGER_CONTEXT):
            self._first = max([self._first, *(n + 1 for n, tier in enumerate(self._tiers) if target in tier)])
        if failure.elsewhere is Elsewhere.LONGER_CONTEXT:
            stated = failure.details.get("max_length")
            known = stated if isinstance(stated, int) else target.context_length
            self._min_context = max(self._min_context, (known or 0) + 1)

    # -- who may be asked ----------------------------------------------------------------------------------------------

    def _may_go_on(self) -> bool:
        return self._last is None or (self._last.elsewhere is not Elsewhere.NO and self._doubts <= 1)

    def _reach(self) -> range:
        """The tiers that an attempt may go to. One that was passed over or left may have an endpoint again."""
        return range(self._first, len(self._tiers))

    def _open(self, targets: Sequence[T]) -> Sequence[T]:
        """Those of a tier's targets that this request may go to."""
        if not self._spent and self._min_context == 0:
            return targets
        return [target for target in targets if target not in self._spent and self._fits(target)]

    def _ready(self, targets: Sequence[T], now: float) -> Sequence[T]:
        """Those that may be asked now."""
        return self._open([target for target in targets if target.usable(now) and target.away_until() <= now])

    def _granted(self, tier: int, open_: Sequence[T]) -> tuple[Sequence[T], str] | None:
        """Which of these the next attempt may go to, and why; None when the tier has had its share. But for budget."""
        if not open_:
            return None
        if tier not in self._entered:  # the tier's first attempt
            return open_, "primary" if tier == 0 else "fallback"
        last = self._last
        fresh = [target for target in open_ if target not in self._asked]
        doubtful = last is not None and last.elsewhere is Elsewhere.ONCE
        always = last is not None and (doubtful or last.kind in _ALWAYS_ELSEWHERE)
        retryable = last is None or last.kind in self._rules.on or (bool(fresh) and always)
        if not retryable or self._attempts >= self._rules.max_attempts or (doubtful and not fresh):
            return None
        return (fresh, "retry") if fresh else (open_, "retry_same")

    def _within(self, tier: int, now: float) -> Choice[T] | None:
        targets = self._tiers[tier]
        if self._key is None and not self._asked and self._last is None:  # as nearly every request has it
            target = self._rules.glance(targets, now)
            if target is not None and self._in_time([target], now):
                return Choice(target, 0.0, "primary" if tier == 0 else "fallback")
        return self._among(targets, tier, now)

    def _among(self, of_tier: Sequence[T], tier: int, now: float) -> Choice[T] | None:
        granted = self._granted(tier, self._ready(of_tier, now))
        if granted is None:
            return None
        targets, why = granted
        returns = why == "retry_same"
        choice = self._choice(targets, now, self._pause(now) if returns else 0.0, why)
        if choice is None or why in _GRANTED:
            return choice
        if not self._paid(now, choice.target):
            return None
        self._returns += returns
        return choice

    def _pause(self, now: float) -> float:
        """Seconds that are left of the backoff before a return to a tried endpoint: it runs from the last failure."""
        return max(0.0, self._failed_at + self._rules.backoff(self._returns + 1) - now)

    def _from_ejected(self, now: float) -> Choice[T] | None:
        """An endpoint whose circuit is open, where more of a tier are out than may be: nothing else can be asked."""
        last = self._last
        if self._attempts and (
            self._attempts >= self._rules.max_attempts
            or (last is not None and (last.elsewhere is not Elsewhere.YES or last.kind not in self._rules.on))
        ):
            return None
        for tier in self._reach():
            targets = _present(self._open(self._rules.ejected(self._tiers[tier], now)), now)
            choice = self._choice(targets, now, 0.0, LAST_RESORT)
            if choice is not None:
                if self._attempts and not self._paid(now, choice.target):
                    return None
                return self._taken(tier, choice)
        return None

    def _after_pause(self, now: float) -> Choice[T] | None:
        """The first to be back of those that asked to be left alone: what runs may answer before that."""
        waits = []
        for tier in self._reach():
            granted = self._granted(tier, self._open([t for t in self._tiers[tier] if t.usable(now)]))
            if granted is not None:
                waits += [(target.away_until(), tier, target, granted[1]) for target in granted[0]]
        for back_at, tier, target, why in sorted(waits, key=lambda wait: wait[0]):
            if back_at > now and self._in_time([target], back_at):
                if why not in _GRANTED and not self._paid(now, target):
                    return None
                return self._taken(tier, Choice(target, back_at - now, why))
        return None

    def _taken(self, tier: int, choice: Choice[T]) -> Choice[T]:
        self._counted = not self._entered or choice.why not in _GRANTED
        self._attempts += self._counted
        self._tier = tier
        if tier not in self._entered:
            self._entered += (tier,)
        if choice.target not in self._asked:
            self._asked += (choice.target,)
        return choice

    def _paid(self, now: float, target: T, *, left: bool = False) -> bool:
        """Takes an attempt at the target from the budget, unless it adds to nobody's trouble.

        The budget keeps retries from multiplying an outage. Going on from an endpoint that failed or could not be
        reached to one with nothing against it multiplies nothing; in an outage of all, none is of that kind for long.
        `left`: a silent one, too, does no more work for this request.
        """
        last = self._last
        moves_on = last is not None and last.blame is Blame.ENDPOINT and (left or last.kind not in _SILENT)
        if (moves_on and target.sound() and target not in self._broken) or self._rules.withdraw(now):
            return True
        self.budget_exhausted = True
        return False

    def _choice(self, targets: Sequence[T], now: float, delay: float, why: str) -> Choice[T] | None:
        """One of these that can answer in time, and of those one that is surely there; None without any."""
        present = self._in_time(targets, now + delay)
        if not present:
            return None
        if len(present) > 1:
            present = [target for target in present if not target.avoided()] or present
        return Choice(self._rules.pick(present, now, self._key), delay, why)

    def _in_time(self, targets: Sequence[T], start: float) -> Sequence[T]:
        """Those of which an attempt that starts at that time can have an answer before the deadline."""
        left = self._deadline - start
        if left > _AMPLE:
            return targets
        able = [target for target in targets if target.least(start) < left]
        self.too_late = self.too_late or len(able) < len(targets)
        return able

    def _fits(self, target: T) -> bool:
        return self._min_context == 0 or (target.context_length or 0) >= self._min_context


def _present(targets: Sequence[T], now: float) -> list[T]:
    """Those that did not ask to be left alone."""
    return [target for target in targets if target.away_until() <= now]
