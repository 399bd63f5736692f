"""A live quantile of durations in constant memory."""

from __future__ import annotations

from math import ceil, log

#: Seconds. Shorter durations count as the shortest, longer ones as the longest.
SHORTEST, LONGEST = 0.001, 1000.0
#: Width of a bucket: an estimate is at most this factor too high.
GROWTH = 1.1
_LOG_GROWTH = log(GROWTH)
_BUCKETS = ceil(log(LONGEST / SHORTEST) / _LOG_GROWTH) + 1


class DecayingHistogram:
    """Durations in buckets of growing width, as in HdrHistogram and DDSketch; the past is halved every `half_life` s.

    An estimate is the upper edge of the quantile's bucket.
    """

    __slots__ = ("_counts", "_decay_at", "_half_life", "count")

    def __init__(self, half_life: float) -> None:
        self._half_life = half_life
        self._counts = [0.0] * _BUCKETS
        self._decay_at = 0.0
        self.count = 0.0
        """Durations seen, those of the past at their decayed weight."""

    def add(self, seconds: float, now: float) -> None:
        """Counts one duration."""
        if now >= self._decay_at:
            self._decay(now)
        bounded = min(max(seconds, SHORTEST), LONGEST)
        index = ceil(log(bounded / SHORTEST) / _LOG_GROWTH)
        self._counts[index] += 1.0
        self.count += 1.0

    def quantile(self, share: float) -> float | None:
        """The duration in seconds that a `share` (0 to 1) of all does not exceed; None while nothing was seen."""
        if self.count <= 0.0:
            return None
        rank = share * self.count
        seen = 0.0
        last = 0
        for index, count in enumerate(self._counts):
            if count:
                seen += count
                last = index
                if seen >= rank:
                    break
        return SHORTEST * GROWTH**last

    def _decay(self, now: float) -> None:
        # In one step for idle times of any length, and only here, so that adding stays cheap.
        factor = 0.5 ** (1 + (now - self._decay_at) // self._half_life)
        self._counts = [kept if (kept := count * factor) > 1e-3 else 0.0 for count in self._counts]
        self.count = sum(self._counts)
        self._decay_at = now + self._half_life
