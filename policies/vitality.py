"""Whether an endpoint is there at all: what connections, answers and active checks say of it, the latest word counting.

A circuit breaker judges how an endpoint answers, from several requests; this knows after one refused connection that
nobody is there, and after one good check that somebody is again.
"""

from __future__ import annotations

from math import inf


class Vitality:
    """What is known of one endpoint. Times are monotonic seconds.

    `doubtful`: the last that was heard is that it could not be reached.
    """

    __slots__ = ("_answered_at", "_missed_at", "_seen_at", "doubtful")

    def __init__(self) -> None:
        self._answered_at = -inf
        self._missed_at = -inf
        self._seen_at = -inf
        self.doubtful = False

    def seen(self, now: float) -> None:
        """It answered a check."""
        if now > self._seen_at:
            self._seen_at = now
            self.doubtful = self._missed_at > now

    def answered(self, now: float) -> None:
        """It has begun a good answer to a request, which says of its engine what a check does not."""
        self._answered_at = now
        self.seen(now)

    def missed(self, now: float) -> None:
        """It could not be reached."""
        self._missed_at = now
        self.doubtful = now > self._seen_at

    @property
    def unheard(self) -> bool:
        """Whether nothing good was ever heard of it: no reason to think that it is about to come back."""
        return self._seen_at == -inf

    def seen_since(self, at: float) -> bool:
        """Whether it answered anything after `at`."""
        return self._seen_at > at

    def answered_since(self, at: float) -> bool:
        """Whether it has begun a good answer to a request after `at`."""
        return self._answered_at > at

    def back_since(self, at: float) -> bool:
        """Whether there is reason to ask it again after a failure at `at`: it answered a request, or, where none has
        reached it since it was missed, a check. One that fails requests answers checks all the time."""
        return self._answered_at > at or (self._seen_at > at and self._missed_at > self._answered_at)
