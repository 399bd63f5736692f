"""When to ask a second endpoint because the first is slow to begin.

Dean and Barroso, "The Tail at Scale": a second request after the 95th percentile costs 5 % and cuts off the tail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policies.budget import BudgetSettings, RetryBudget
from policies.quantile import DecayingHistogram

_PERCENTILE = 0.95
#: Fewer measured requests than this say nothing about a tail.
_MIN_SAMPLES = 20
_HALF_LIFE = 30.0
#: Seconds for which a computed percentile is good enough.
_REFRESH = 1.0
#: Hedges a second that are always allowed, unless the budget is 0: else a route of few requests would never have one.
_FLOOR = 0.1


@dataclass(frozen=True, slots=True)
class HedgeSettings:
    """`hedge` of a policy. `after`: seconds, or `p95` of the time to first token.

    Bodies of more than `max_body` bytes mean a long prefill, and a second one is not worth it; nor are `images`, where
    the whole answer is the first token.
    """

    after: float | Literal["p95"]
    max: int
    budget: float
    max_body: int
    images: bool


class HedgePolicy:
    """Hedging of one route, with a budget of its own. Streams and whole answers are measured apart."""

    __slots__ = ("_after", "_live", "budget", "settings")

    def __init__(self, settings: HedgeSettings) -> None:
        self.settings = settings
        floor = _FLOOR if settings.budget > 0 else 0.0
        self.budget = RetryBudget(BudgetSettings(ratio=settings.budget, min_per_second=floor))
        self._after = settings.after if isinstance(settings.after, float | int) else None
        self._live = (_Tail(), _Tail())

    def deposit(self, now: float) -> None:
        """A request came."""
        self.budget.deposit(now)

    def observe(self, seconds: float, now: float, *, stream: bool) -> None:
        """A first token took so long, or was still not there when another attempt's was."""
        if self._after is None:
            self._live[stream].times.add(seconds, now)

    def delay(self, now: float, hedges: int, body: int, *, stream: bool, image: bool = False) -> float | None:
        """Seconds without a first token after which to hedge a request of so many bytes; None for never.

        `hedges` are those that it has had.
        """
        settings = self.settings
        if hedges >= settings.max or body > settings.max_body or (image and not settings.images):
            return None
        return self._after if self._after is not None else self._live[stream].value(now)

    def try_hedge(self, now: float, shared: RetryBudget) -> bool:
        """Takes one hedge from its own budget and from the one it shares with retries; from both or from neither."""
        return shared.balance(now) >= 1.0 and self.budget.try_withdraw(now) and shared.try_withdraw(now)


class _Tail:
    """The recent 95th percentile of one sort of answers."""

    __slots__ = ("_fresh_until", "_value", "times")

    def __init__(self) -> None:
        self.times = DecayingHistogram(_HALF_LIFE)
        self._value: float | None = None
        self._fresh_until = 0.0

    def value(self, now: float) -> float | None:
        """Seconds; None while there are too few measurements."""
        if now >= self._fresh_until:
            self._value = self.times.quantile(_PERCENTILE) if self.times.count >= _MIN_SAMPLES else None
            self._fresh_until = now + _REFRESH
        return self._value
