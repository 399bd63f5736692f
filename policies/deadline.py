"""How long a request may take, and what is left of that for each of its attempts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf

#: A day; nobody waits longer, and it keeps the arithmetic away from absurd numbers.
MAX_TIMEOUT = 86400.0
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class TimeoutSettings:
    """`timeout` of a policy, in seconds. `idle` is the longest silence inside an answer."""

    connect: float
    first_token: float
    idle: float
    total: float


class Deadline:
    """When a request has to be over. `at` is in monotonic seconds; `by_client` whether the client set it."""

    __slots__ = ("at", "by_client")

    def __init__(self, start: float, total: float, requested: float | None = None) -> None:
        """`requested` is the client's own limit in seconds; it can shorten `total`, never extend it."""
        self.by_client = requested is not None and requested <= total
        self.at = start + (requested if self.by_client and requested is not None else total)

    def remaining(self, now: float) -> float:
        """Seconds left; never negative."""
        left = self.at - now
        return left if left > 0.0 else 0.0

    def expired(self, now: float) -> bool:
        return now >= self.at

    def bound(self, now: float, timeout: float) -> float:
        """A timeout of one step, cut to what is left."""
        left = self.remaining(now)
        return timeout if timeout < left else left

    def can_start(self, now: float, minimum: float) -> bool:
        """Whether something that takes at least `minimum` seconds from now on can still be done in time."""
        return now + minimum < self.at

    def header_value(self, now: float) -> str:
        """What is left as `X-Request-Timeout` for the next hop: seconds with three decimals, never 0."""
        return f"{max(0.001, self.remaining(now)):.3f}"


class Quickest:
    """How soon an endpoint answers at the best: the least of what its latest answers took.

    A lower bound and nothing more, so that nothing is refused which might have been in time: known after `_ENOUGH`
    answers, and forgotten when there were none for one to two windows.
    """

    __slots__ = ("_before", "_least", "_seen", "_turn")

    #: Answers from which a least time is told, and seconds that one counts for.
    _ENOUGH = 10
    _WINDOW = 60.0

    def __init__(self) -> None:
        self._turn = 0.0  # when the present window ends
        self._before = self._least = inf
        self._seen = 0

    def observe(self, seconds: float, now: float) -> None:
        """A first token or a whole answer came after so many seconds."""
        if now >= self._turn:
            self._before = self._least if now < self._turn + self._WINDOW else inf
            self._least = inf
            self._turn = now + self._WINDOW
        self._seen += 1
        if seconds < self._least:
            self._least = seconds

    def least(self, now: float) -> float:
        """Seconds; 0 when nothing is known."""
        if self._seen < self._ENOUGH or now >= self._turn + self._WINDOW:
            return 0.0
        return min(self._least, self._before)


def parse_timeout(value: str | None) -> float | None:
    """Seconds from an `X-Request-Timeout` header: a positive decimal, at most a day. None when it is anything else."""
    if value is None or not _SECONDS.fullmatch(value := value.strip(" \t")):
        return None
    seconds = float(value)
    return seconds if 0.0 < seconds <= MAX_TIMEOUT else None
