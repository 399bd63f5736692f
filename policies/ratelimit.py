"""Rate limits of one API key: requests and tokens a minute."""

from __future__ import annotations

from dataclasses import dataclass

PERIOD = 60.0
#: For tokens counted in floating point: a bucket that is full but for this is full.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Quota:
    """What RateLimit headers say: the limit, what is left of it, and seconds until all of it is there again."""

    limit: int
    remaining: int
    reset: float


class RateLimit:
    """`limit` units per `PERIOD` as a token bucket that holds one period's worth.

    Kept like the generic cell rate algorithm: one number, the time at which the bucket will be full. `charged` adds up
    what was taken here, until who shares the limit has been told and sets it back.
    """

    __slots__ = ("_full_at", "_interval", "charged", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._interval = PERIOD / limit
        self._full_at = 0.0
        self.charged = 0.0

    def try_take(self, now: float, cost: float = 1.0) -> bool:
        """Takes `cost` units if they are there. More than the whole bucket is granted when it is full, on credit."""
        if self.retry_after(now, cost) > 0.0:
            return False
        self.charge(now, cost)
        return True

    def charge(self, now: float, cost: float) -> None:
        """Takes units whether they are there or not; a negative cost gives some back."""
        self._full_at = max(now, max(now, self._full_at) + cost * self._interval)
        self.charged += cost

    def follow(self, now: float, reset: float) -> None:
        """Takes over a bucket that is shared: full in `reset` seconds, but for what is `charged` here."""
        self._full_at = max(now, now + reset + self.charged * self._interval)

    def retry_after(self, now: float, cost: float = 1.0) -> float:
        """Seconds until `try_take` would grant the cost; 0 for now."""
        room = PERIOD - min(cost, float(self.limit)) * self._interval
        wait = self._full_at - now - room
        return wait if wait > _ROUNDING else 0.0

    def reset(self, now: float) -> float:
        """Seconds until all of it is there again."""
        return max(0.0, self._full_at - now)

    def quota(self, now: float) -> Quota:
        """How it stands."""
        reset = self.reset(now)
        return Quota(self.limit, max(0, int((PERIOD - reset) / self._interval + _ROUNDING)), reset)
