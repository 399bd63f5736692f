"""Where the next attempt of one request goes: tiers in order, endpoints within them, waits between.

Rules: the first attempt, and the first in each further tier, is always granted; every other one counts against
`attempts` and needs a withdrawal from the retry budget, shared with hedges and resumes. An untried endpoint comes first
and needs no wait; going back to a tried one waits for the backoff and its `Retry-After`. An endpoint that stayed silent
is never asked again, a tier that was left never entered again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from policies.outcome import Elsewhere, ErrorKind, Failure

_SILENT = frozenset({ErrorKind.INFERENCE_TIMEOUT})
#: Tried elsewhere although they are not in `retry.on`: another endpoint may well have room, or the model.
_ALWAYS_ELSEWHERE = frozenset({ErrorKind.OUT_OF_MEMORY, ErrorKind.MODEL_LOADING_FAILED, ErrorKind.MODEL_NOT_FOUND})


class Target(Protocol):
    """A place where an attempt can go; `context_length` is in tokens, None when unknown."""

    @property
    def context_length(self) -> int | None: ...

    def usable(self, now: float) -> bool:
        """Whether it may be asked at all now: healthy, circuit not open, below its limit."""

    def away_until(self) -> float:
        """Until when it asked to be left alone; in the past when it did not."""


T = TypeVar("T", bound=Target)


@dataclass(frozen=True, slots=True)
class Choice(Generic[T]):
    """The next attempt: where, after how many seconds, and why, in a word for operators."""

    target: T
    delay: float
    why: str


class AttemptPlan(Generic[T]):
    """One request's plan. Not reused."""

    __slots__ = (
        "_attempts",
        "_backoff",
        "_deadline",
        "_last",
        "_max_attempts",
        "_min_context",
        "_on",
        "_pick",
        "_returns",
        "_silent",
        "_tier",
        "_tiers",
        "_tried",
        "_withdraw",
        "budget_exhausted",
    )

    def __init__(
        self,
        tiers: Sequence[Sequence[T]],
        *,
        max_attempts: int,
        on: frozenset[ErrorKind],
        backoff: Callable[[int], float],
        withdraw: Callable[[float], bool],
        pick: Callable[[Sequence[T], float], T],
        deadline: float,
    ) -> None:
        """`backoff(n)` is the wait in seconds before the n-th return to a tried endpoint (from 1); `withdraw(now)`
        takes one retry from the budget; `pick` is the balancer; `deadline` ends the request."""
        self._tiers = tiers
        self._max_attempts = max_attempts
        self._on = on
        self._backoff = backoff
        self._withdraw = withdraw
        self._pick = pick
        self._deadline = deadline
        self._tier = 0
        self._tried: list[T] = []
        self._silent: list[T] = []
        self._attempts = 0
        self._returns = 0
        self._min_context = 0
        self._last: Failure | None = None
        self.budget_exhausted = False

    @property
    def tier(self) -> int:
        """Index of the tier that the last choice came from; 0 is the primary."""
        return self._tier

    def next(self, now: float) -> Choice[T] | None:
        """The next attempt, or None when there is nowhere left to go."""
        last = self._last
        if last is not None and last.elsewhere is Elsewhere.NO:
            return None
        while self._tier < len(self._tiers):
            choice = self._within_tier(now)
            if choice is not None:
                self._attempts += 1
                if choice.target not in self._tried:
                    self._tried.append(choice.target)
                return choice
            if self._tier + 1 == len(self._tiers):
                return None
            self._tier += 1
            self._tried = []
        return None

    def beside(self, now: float, running: Sequence[T]) -> Choice[T] | None:
        """Another endpoint to ask while the running ones are slow; None when there is none or no budget."""
        self._silent.extend(target for target in running if target not in self._silent)
        return self.next(now)

    def failed(self, target: T, failure: Failure) -> None:
        """Records how an attempt failed."""
        self._last = failure
        if failure.kind in _SILENT and target not in self._silent:
            self._silent.append(target)
        if failure.elsewhere is Elsewhere.LONGER_CONTEXT:
            stated = failure.details.get("max_length")
            known = stated if isinstance(stated, int) else target.context_length
            self._min_context = max(self._min_context, (known or 0) + 1)

    def _within_tier(self, now: float) -> Choice[T] | None:
        last = self._last
        open_ = [t for t in self._tiers[self._tier] if t not in self._silent and t.usable(now) and self._fits(t)]
        if not open_:
            return None
        if not self._tried:  # the tier's first attempt
            why = "primary" if self._tier == 0 else "fallback"
            return self._choice(open_, now, 0.0, why)
        if last is not None and last.elsewhere in (Elsewhere.NEXT_TIER, Elsewhere.LONGER_CONTEXT):
            return None
        fresh = [target for target in open_ if target not in self._tried]
        retryable = last is None or last.kind in self._on or (bool(fresh) and last.kind in _ALWAYS_ELSEWHERE)
        if not retryable or self._attempts >= self._max_attempts:
            return None
        if fresh:
            choice = self._choice(fresh, now, 0.0, "retry")
        else:
            choice = self._choice(open_, now, self._backoff(self._returns + 1), "retry_same")
        if choice is None:
            return None
        if not self._withdraw(now):
            self.budget_exhausted = True
            return None
        if not fresh:
            self._returns += 1
        return choice

    def _choice(self, targets: list[T], now: float, delay: float, why: str) -> Choice[T] | None:
        """Those that did not ask to be left alone first; else the soonest back, if it is back before the deadline."""
        present = [target for target in targets if target.away_until() <= now]
        if present:
            return Choice(self._pick(present, now), delay, why) if now + delay < self._deadline else None
        soonest = min(targets, key=lambda target: target.away_until())
        delay = max(delay, soonest.away_until() - now)
        return Choice(soonest, delay, why) if now + delay < self._deadline else None

    def _fits(self, target: T) -> bool:
        return self._min_context == 0 or (target.context_length or 0) >= self._min_context
