"""How many requests an endpoint is given at a time.

The adaptive limit is Gradient2 of Netflix's concurrency-limits: while latency stays near its long-term average there is
no queue in the backend, and the limit grows; when it rises, the limit shrinks in proportion. Here it works on the mean
time to first token of a window rather than on single requests, since prompts differ widely in length, it starts by
doubling until it first meets resistance, as TCP does, and an explicit "overloaded" shrinks it as in AIMD.
"""

from __future__ import annotations

from math import sqrt
from typing import Protocol

#: How far latency may rise above its long-term mean before that counts as a queue.
TOLERANCE = 2.0
_SMOOTHING = 0.2
_BACKOFF = 0.9
_INITIAL = 32
#: A window is over after this many seconds, if it has this many samples.
_WINDOW = 0.5
_MIN_SAMPLES = 10
#: Windows that the long-term mean looks back on, and from which on it is an exponential one.
_LONG_WINDOWS = 600
_WARM_UP = 10


class ConcurrencyLimit(Protocol):
    """A limit on the requests in flight at one endpoint."""

    @property
    def limit(self) -> int: ...

    def observe(self, seconds: float, in_flight: int, now: float) -> None:
        """A request's first token took `seconds`; `in_flight` were under way when it started."""

    def overloaded(self, now: float) -> None:
        """The endpoint said that it is busy, or requests wait inside it."""


class FixedLimit:
    """A limit that stays as it is."""

    __slots__ = ("limit",)

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def observe(self, seconds: float, in_flight: int, now: float) -> None:
        pass

    def overloaded(self, now: float) -> None:
        pass


class GradientLimit:
    """A limit between `minimum` and `maximum` that follows the time to first token."""

    __slots__ = (
        "_baseline",
        "_estimate",
        "_growing",
        "_maximum",
        "_minimum",
        "_most_in_flight",
        "_samples",
        "_shrunk_at",
        "_sum",
        "_window_end",
        "_windows",
        "limit",
    )

    def __init__(self, minimum: int, maximum: int) -> None:
        self._minimum = minimum
        self._maximum = maximum
        self._estimate = float(min(maximum, max(minimum, _INITIAL)))
        self.limit = int(self._estimate)
        self._baseline = 0.0
        self._windows = 0
        self._growing = True  # until the first resistance
        self._shrunk_at = float("-inf")
        self._window_end = 0.0
        self._samples = 0
        self._sum = 0.0
        self._most_in_flight = 0

    def observe(self, seconds: float, in_flight: int, now: float) -> None:
        self._samples += 1
        self._sum += seconds
        if in_flight > self._most_in_flight:
            self._most_in_flight = in_flight
        if now >= self._window_end:
            if self._samples >= _MIN_SAMPLES:
                self._adjust(self._sum / self._samples)
                self._samples, self._sum, self._most_in_flight = 0, 0.0, 0
            self._window_end = now + _WINDOW

    def overloaded(self, now: float) -> None:
        self._growing = False
        if now - self._shrunk_at >= _WINDOW:  # one burst of refusals is one signal
            self._shrunk_at = now
            self._set(self._estimate * _BACKOFF)

    def _adjust(self, mean: float) -> None:
        baseline = self._update_baseline(mean)
        if self._most_in_flight < self._estimate / 2:
            return  # the limit was not what held requests back: it has not been tested
        gradient = max(0.5, min(1.0, TOLERANCE * baseline / mean)) if mean > 0 else 1.0
        if gradient < 1.0:
            self._growing = False
        if self._growing:
            self._set(self._estimate * 2)
            return
        # Room for a queue of sqrt(limit): large limits have to be able to grow as fast as small ones.
        target = self._estimate * gradient + sqrt(self._estimate)
        self._set(self._estimate * (1 - _SMOOTHING) + target * _SMOOTHING)

    def _update_baseline(self, mean: float) -> float:
        self._windows += 1
        if self._windows <= _WARM_UP:
            self._baseline += (mean - self._baseline) / self._windows
        else:
            self._baseline += (mean - self._baseline) * 2 / (_LONG_WINDOWS + 1)
        if self._baseline > 2 * mean:
            self._baseline *= 0.95  # back from a long overload: don't take its latency for the normal one
        return self._baseline

    def _set(self, estimate: float) -> None:
        self._estimate = min(float(self._maximum), max(float(self._minimum), estimate))
        self.limit = int(self._estimate)
