"""How many requests an endpoint is given at a time.

The adaptive limit is Gradient2 of Netflix's concurrency-limits: while latency stays near its usual value there is no
queue in the backend and the limit grows; when it rises, the limit shrinks in proportion. What differs:

- It works on the mean of a window, not on single requests, as prompts differ widely in length. What is compared is the
  time to first token of streams and the time per token of whole answers, each with its own usual value: a change in
  what clients ask for must not look like a change of the server.
- Below `_ALWAYS_FINE` seconds nothing is a queue worth acting on.
- The usual latency is learned quickly while it can't be of our own making (the limit was not filled), and else very
  slowly: Netflix's average takes a lasting overload for the new normal within minutes and lets the limit grow.
- It starts by doubling until it first meets resistance, as TCP does; an explicit "overloaded" shrinks it as in AIMD.
- Where a server tells how many requests wait inside it, that is believed before any latency: a limit that starts while
  others load the server would else take the loaded latency for the usual one.
"""

from __future__ import annotations

from math import sqrt
from typing import Protocol

#: How far latency may rise above the usual before that counts as a queue.
TOLERANCE = 2.0
_SMOOTHING = 0.2
_BACKOFF = 0.9
#: Share that it shrinks by at most for one report of requests that wait inside the endpoint; they may be others'.
_DRAIN = 0.2
#: Seconds; a mean below it is taken as usual.
_ALWAYS_FINE = 0.05
_INITIAL = 20
#: A window is over after this many seconds, if it has this many samples.
_WINDOW = 0.5
_MIN_SAMPLES = 10
#: Share of a window's mean in the usual latency, and where the limit may be what made it: ten minutes to follow a rise.
_LEARNING = 0.05
_DRIFT = _WINDOW / 600


class ConcurrencyLimit(Protocol):
    """A limit on the requests in flight at one endpoint."""

    @property
    def limit(self) -> int: ...

    def observe(self, seconds: float, in_flight: int, now: float, tokens: int | None = None) -> None:
        """A request's first token took `seconds`, or its whole answer of so many `tokens`; `in_flight` were under way
        at that time."""

    def overloaded(self, now: float) -> None:
        """The endpoint said that it is busy."""

    def queued(self, waiting: float) -> None:
        """So many requests wait inside the endpoint now, as its own gauge says."""


class FixedLimit:
    """A limit that stays as it is."""

    __slots__ = ("limit",)

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def observe(self, seconds: float, in_flight: int, now: float, tokens: int | None = None) -> None:
        pass

    def overloaded(self, now: float) -> None:
        pass

    def queued(self, waiting: float) -> None:
        pass


class _Series:
    """Samples of one kind in the present window, and what is usual for the kind; 0 before the first window."""

    __slots__ = ("samples", "total", "usual")

    def __init__(self) -> None:
        self.samples = 0
        self.total = 0.0
        self.usual = 0.0

    def close(self, may_be_ours: bool) -> float:
        """Ends the window: how many times the usual its samples were, summed up. Learns from it."""
        mean = self.total / self.samples
        if not self.usual:
            self.usual = mean
        self.usual += (mean - self.usual) * (_DRIFT if may_be_ours and mean > self.usual else _LEARNING)
        excess = self.samples * mean / self.usual if self.usual > 0 else float(self.samples)
        self.samples, self.total = 0, 0.0
        return excess


class GradientLimit:
    """A limit between `minimum` and `maximum` that follows latency."""

    __slots__ = (
        "_answers",
        "_estimate",
        "_first_tokens",
        "_growing",
        "_maximum",
        "_minimum",
        "_most_in_flight",
        "_queued",
        "_samples",
        "_shrunk_at",
        "_sum",
        "_window_end",
        "limit",
    )

    def __init__(self, minimum: int, maximum: int) -> None:
        self._minimum = minimum
        self._maximum = maximum
        self._estimate = float(min(maximum, max(minimum, _INITIAL)))
        self.limit = int(self._estimate)
        self._first_tokens = _Series()
        self._answers = _Series()
        self._growing = True  # until the first resistance
        self._queued = False  # whether more requests wait inside the endpoint than keep it busy
        self._shrunk_at = float("-inf")
        self._window_end = 0.0
        self._samples = 0
        self._sum = 0.0
        self._most_in_flight = 0

    def observe(self, seconds: float, in_flight: int, now: float, tokens: int | None = None) -> None:
        if tokens:
            self._answers.samples += 1
            self._answers.total += seconds / tokens
        else:
            self._first_tokens.samples += 1
            self._first_tokens.total += seconds
        self._samples += 1
        self._sum += seconds
        if in_flight > self._most_in_flight:
            self._most_in_flight = in_flight
        if now >= self._window_end:
            if self._samples >= _MIN_SAMPLES:
                self._adjust()
                self._samples, self._sum, self._most_in_flight = 0, 0.0, 0
            self._window_end = now + _WINDOW

    def overloaded(self, now: float) -> None:
        self._growing = False
        if now - self._shrunk_at >= _WINDOW:  # one burst of refusals is one signal
            self._shrunk_at = now
            self._set(self._estimate * _BACKOFF)

    def queued(self, waiting: float) -> None:
        excess = waiting - sqrt(self._estimate)  # so many may wait: see `_adjust`
        self._queued = excess > 0.0
        if self._queued:
            self._growing = False
            self._set(self._estimate - min(excess, self._estimate * _DRAIN))

    def _adjust(self) -> None:
        tested = self._most_in_flight >= self._estimate / 2
        excess = sum(
            series.close(tested or self._queued) for series in (self._first_tokens, self._answers) if series.samples
        )
        if not tested:
            return  # the limit is not what held requests back
        gradient = 1.0
        if self._sum > _ALWAYS_FINE * self._samples and excess > 0:
            gradient = max(0.5, min(1.0, TOLERANCE * self._samples / excess))
        if gradient < 1.0:
            self._growing = False
        if self._growing:
            self._set(self._estimate * 2)
            return
        # Room for a queue of sqrt(limit): large limits have to be able to grow as fast as small ones.
        room = 0.0 if self._queued else sqrt(self._estimate)
        target = self._estimate * gradient + room
        self._set(self._estimate * (1 - _SMOOTHING) + target * _SMOOTHING)

    def _set(self, estimate: float) -> None:
        self._estimate = min(float(self._maximum), max(float(self._minimum), estimate))
        self.limit = int(self._estimate)
