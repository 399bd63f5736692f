"""What a plan of attempts works with: endpoints as it sees them, a route's rules; and what it says of each next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from policies.outcome import ErrorKind

#: The reason of an attempt at an endpoint whose circuit is open.
LAST_RESORT = "last_resort"
#: The reason of one that is started because the first is slow to begin.
HEDGE = "hedge"
#: The reason of one at an endpoint that came back while the request waited.
RECOVERED = "recovered"
#: The reason of one that asks for less than the client did, as for more there was not memory enough.
SHRUNK = "shrunk"
#: The reason of an attempt that goes on with a broken stream.
RESUME = "resume"


class Target(Protocol):
    """A place where an attempt can go; `context_length` is in tokens, None when unknown."""

    @property
    def context_length(self) -> int | None: ...

    def least(self, now: float) -> float:
        """Seconds that an answer's beginning takes there at the least, as far as is known; 0 when nothing is."""

    def usable(self, now: float) -> bool:
        """Whether it may be asked at all now: healthy, circuit not open, below its limit."""

    def busy(self, now: float) -> bool:
        """Whether it may be asked but for being at its limit."""

    def away_until(self) -> float:
        """Until when it asked to be left alone; in the past when it did not."""

    def doubtful(self) -> bool:
        """Whether it could not be reached the last time."""

    def avoided(self) -> bool:
        """Whether others are to be asked first: it is doubtful, or its devices are unwell."""

    def sound(self) -> bool:
        """Whether nothing speaks against it: its circuit is closed, its last answer was good."""

    def recovered_since(self, at: float, now: float) -> bool:
        """Whether there is reason to ask it again after a failure at that time."""

    def back_by(self, until: float, now: float) -> bool:
        """Whether its circuit, which lets nothing through now, is to let something through by then."""

    def answered_since(self, at: float) -> bool:
        """Whether it has begun a good answer to a request after that time."""


T = TypeVar("T", bound=Target)


class Choice(Generic[T]):
    """The next attempt: where, after how many seconds, and why, in a word for operators."""

    __slots__ = ("delay", "target", "why")

    def __init__(self, target: T, delay: float, why: str) -> None:
        self.target = target
        self.delay = delay
        self.why = why


@dataclass(frozen=True, slots=True)
class PlanRules(Generic[T]):
    """What the plans of all requests of a route have in common.

    `backoff(n)` is the wait in seconds before the n-th return to a tried endpoint (from 1); `withdraw(now)` takes one
    retry from the budget; `pick` is the balancer; `ejected(tier, now)` are endpoints with an open circuit that may be
    tried all the same; `charge(now)` takes from the budget what can't be refused; `glance(tier, now)` gives the
    first attempt of a request without a key an endpoint that may be asked and is not avoided, without asking all of the
    tier; None when it found none.
    """

    tiers: Sequence[Sequence[T]]
    max_attempts: int
    on: frozenset[ErrorKind]
    backoff: Callable[[int], float]
    withdraw: Callable[[float], bool]
    pick: Callable[[Sequence[T], float, bytes | None], T]
    max_resumes: int = 0
    ejected: Callable[[Sequence[T], float], Sequence[T]] = lambda tier, now: ()
    charge: Callable[[float], object] = lambda now: None
    glance: Callable[[Sequence[T], float], T | None] = lambda tier, now: None
