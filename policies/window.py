"""Counts of outcomes over a sliding stretch of time."""

from __future__ import annotations

_BUCKETS = 10


class OutcomeWindow:
    """Requests, failures and slow requests of the last `length` seconds, exact to a tenth of it.

    Fixed buckets with running sums: recording costs the same however much was recorded, and nothing grows.
    """

    __slots__ = ("_bucket", "_failures", "_requests", "_slow", "_width", "failures", "requests", "slow")

    def __init__(self, length: float) -> None:
        self._width = length / _BUCKETS
        self._requests = [0] * _BUCKETS
        self._failures = [0] * _BUCKETS
        self._slow = [0] * _BUCKETS
        self._bucket = 0  # number of the current bucket since time 0
        self.requests = 0
        self.failures = 0
        self.slow = 0

    def record(self, now: float, *, failed: bool, slow: bool) -> None:
        """Counts one request. A `now` older than the last one counts as that one."""
        if now >= (self._bucket + 1) * self._width:
            self.advance(now)
        at = self._bucket % _BUCKETS
        self._requests[at] += 1
        self.requests += 1
        if failed:
            self._failures[at] += 1
            self.failures += 1
        if slow:
            self._slow[at] += 1
            self.slow += 1

    def advance(self, now: float) -> None:
        """Forgets what is too old."""
        bucket = int(now / self._width)
        for number in range(self._bucket + 1, min(bucket, self._bucket + _BUCKETS) + 1):
            at = number % _BUCKETS
            self.requests -= self._requests[at]
            self.failures -= self._failures[at]
            self.slow -= self._slow[at]
            self._requests[at] = self._failures[at] = self._slow[at] = 0
        self._bucket = max(self._bucket, bucket)
