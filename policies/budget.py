"""A retry budget: retries as a share of recent requests, so that retries can't multiply an outage.

After Finagle's `RetryBudget` and tower's `TpsBudget`: requests deposit, retries withdraw, and both are forgotten after
a time to live. Unlike there, the floor is not a reserve on top of the share but the least that is granted: a reserve of
`min_per_second` for the whole time to live is a burst that alone can double the load of a small outage.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds that a deposit and a withdrawal count for.
TTL = 10.0
_BUCKETS = 10
_WIDTH = TTL / _BUCKETS
#: Shares such as 0.2 are not exact in binary; ten deposits at 0.1 have to be one withdrawal.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class BudgetSettings:
    """`ratio`: withdrawals per deposit; `min_per_second`: withdrawals a second that are granted in any case."""

    ratio: float
    min_per_second: float


class RetryBudget:
    """Shared by retries, hedges and resumes of one route.

    Over any stretch of time, withdrawals that `try_withdraw` granted are at most
    `ratio * deposits + min_per_second * seconds + max(1, min_per_second)`.
    """

    __slots__ = (
        "_balance",
        "_bucket",
        "_burst",
        "_changes",
        "_floor",
        "_floor_at",
        "_granted",
        "_rate",
        "elsewhere",
        "settings",
    )

    def __init__(self, settings: BudgetSettings) -> None:
        self.settings = settings
        self._changes = [0.0] * _BUCKETS
        self._balance = 0.0  # sum of `_changes`
        self.elsewhere = 0.0
        self._granted = 0.0  # of what is elsewhere
        self._rate = settings.min_per_second
        self._bucket = 0  # number of the current bucket since time 0
        # A whole retry must fit into the floor, or a rate below 1 would grant none. A rate of 0 grants none.
        self._burst = max(1.0, settings.min_per_second) if settings.min_per_second > 0 else 0.0
        self._floor = self._burst
        self._floor_at = 0.0

    def deposit(self, now: float) -> None:
        """A request came."""
        bucket = int(now / _WIDTH)
        if bucket != self._bucket:
            self._advance(bucket)
        ratio = self.settings.ratio
        self._changes[self._bucket % _BUCKETS] += ratio
        self._balance += ratio

    def try_withdraw(self, now: float) -> bool:
        """Takes one retry if there is one."""
        if self.balance(now) < 1.0:
            return False
        self._take()
        return True

    def withdraw(self, now: float) -> None:
        """Takes one retry even if there is none: for an attempt that can't be refused but must be counted.

        A debt is forgotten after `TTL` like everything else.
        """
        self._refresh(now)
        self._take()

    def balance(self, now: float) -> float:
        """Retries that would be granted now, in one go."""
        self._refresh(now)
        return max(self._balance + self._granted + _ROUNDING, self._floor)

    @property
    def own(self) -> float:
        """Deposits less withdrawals made here lately."""
        return self._balance

    def share(self, elsewhere: float, replicas: int) -> None:
        """Replicas act as one: `elsewhere` is the balance of the others, of which each of all `replicas` may take an
        equal part; a debt is everyone's. The floor is divided among them."""
        self.elsewhere = elsewhere
        self._granted = min(elsewhere, elsewhere / replicas)
        self._rate = self.settings.min_per_second / replicas
        self._burst = max(1.0, self._rate) if self._rate > 0 else 0.0

    def _take(self) -> None:
        self._changes[self._bucket % _BUCKETS] -= 1.0
        self._balance -= 1.0
        self._floor = max(0.0, self._floor - 1.0)

    def _refresh(self, now: float) -> None:
        bucket = int(now / _WIDTH)
        if bucket != self._bucket:
            self._advance(bucket)
        if now > self._floor_at:
            self._floor = min(self._burst, self._floor + (now - self._floor_at) * self._rate)
            self._floor_at = now

    def _advance(self, bucket: int) -> None:
        """Empties the buckets between the last one used and this one."""
        if bucket < self._bucket:  # time does not run backwards; a stray older reading belongs to the current bucket
            return
        for number in range(self._bucket + 1, min(bucket, self._bucket + _BUCKETS) + 1):
            self._changes[number % _BUCKETS] = 0.0
        self._bucket = bucket
        self._balance = sum(self._changes)  # afresh, so that rounding does not add up
