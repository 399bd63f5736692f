"""How long a request may take, and what is left of that for each of its attempts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf

#: A day; nobody waits longer, and it keeps the arithmetic away from absurd numbers.
MAX_TIMEOUT = 86400.0
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """A policy's `timeout`, in seconds."""

    connect: float
    first_token: float
    idle: float
    total: float


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
