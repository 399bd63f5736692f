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
#: Characters of input above which prefill is dear and long, and a second one is not worth it.
MAX_INPUT_CHARS = 32_000


@dataclass(frozen=True, slots=True)
class HedgeSettings:
    """`hedge` of a policy. `after`: seconds, `p95` of the time to first token, or None for never."""

    after: float | Literal["p95"] | None
    max: int
    budget: float


class HedgePolicy:
    """Hedging of one route. Its own budget is a share of requests, without a floor."""

    __slots__ = ("_after", "_fresh_until", "_live", "_times", "budget", "settings")

    def __init__(self, settings: HedgeSettings) -> None:
        self.settings = settings
        self.budget = RetryBudget(BudgetSettings(ratio=settings.budget, min_per_second=0.0))
        self._live = settings.after == "p95"
        self._after = settings.after if isinstance(settings.after, float | int) else None
        self._fresh_until = 0.0
        self._times = DecayingHistogram(_HALF_LIFE)

    def deposit(self, now: float) -> None:
        """A request came."""
        self.budget.deposit(now)

    def observe(self, seconds: float, now: float) -> None:
        """A request's first token took so long."""
        if self._live:
            self._times.add(seconds, now)

    def delay(self, now: float, hedges: int, input_chars: int) -> float | None:
        """Seconds without a first token after which to hedge a request that has `hedges` already; None for never."""
        if hedges >= self.settings.max or input_chars > MAX_INPUT_CHARS:
            return None
        if self._live and now >= self._fresh_until:
            self._after = self._times.quantile(_PERCENTILE) if self._times.count >= _MIN_SAMPLES else None
            self._fresh_until = now + _REFRESH
        return self._after

    def try_hedge(self, now: float, shared: RetryBudget) -> bool:
        """Takes one hedge from its own budget and from the one it shares with retries; from both or from neither."""
        return shared.balance(now) >= 1.0 and self.budget.try_withdraw(now) and shared.try_withdraw(now)
