"""Which of several equally good endpoints gets the next request."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from policies.affinity import ConsistentHash


class Balanced(Protocol):
    """What the balancers look at. Compared by identity; `name` is the same after a restart and in every replica."""

    @property
    def name(self) -> str: ...

    @property
    def in_flight(self) -> int:
        """Attempts under way."""

    @property
    def weight(self) -> float:
        """Share of traffic, more than 0."""

    def load(self, now: float) -> float:
        """Requests under way per unit of weight, and what else is known of its load."""


B = TypeVar("B", bound=Balanced)


class Balancer(Protocol):
    """One way to choose."""

    def pick(self, candidates: Sequence[B], now: float, rng: random.Random, key: bytes | None = None) -> B:
        """One of the candidates, of which there is at least one.

        `key` is what requests have in common that should meet the same endpoint; only affinity heeds it.
        """


class RoundRobin:
    """Smooth weighted round robin, as in nginx: over any run of picks each gets its share, evenly spread."""

    __slots__ = ("_current",)

    def __init__(self) -> None:
        self._current: dict[object, float] = {}

    def pick(self, candidates: Sequence[B], now: float, rng: random.Random, key: bytes | None = None) -> B:
        if len(candidates) == 1:
            return candidates[0]
        current = self._current
        if len(current) > 4 * len(candidates) + 64:  # endpoints that are long gone
            self._current = current = {c: current[c] for c in candidates if c in current}
        total = 0.0
        best, highest = candidates[0], float("-inf")
        for candidate in candidates:
            weight = candidate.weight
            total += weight
            current[candidate] = value = current.get(candidate, 0.0) + weight
            if value > highest:
                best, highest = candidate, value
        current[best] = highest - total
        return best


class Random:
    """By weight alone."""

    __slots__ = ()

    def pick(self, candidates: Sequence[B], now: float, rng: random.Random, key: bytes | None = None) -> B:
        return candidates[0] if len(candidates) == 1 else _drawn(candidates, rng)


class PowerOfTwo:
    """The less loaded of two drawn at random.

    Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing": nearly as even as asking all, and replicas
    that don't know of each other's requests don't all run to the same endpoint.
    """

    __slots__ = ()

    def pick(self, candidates: Sequence[B], now: float, rng: random.Random, key: bytes | None = None) -> B:
        count = len(candidates)
        if count == 1:
            return candidates[0]
        first = int(rng.random() * count)
        second = int(rng.random() * (count - 1))
        if second >= first:
            second += 1
        one, other = candidates[first], candidates[second]
        loads = one.load(now), other.load(now)
        if loads[0] == loads[1]:
            # Drawn evenly, so weight has to count here or idle endpoints would share alike.
            return one if rng.random() * (one.weight + other.weight) < one.weight else other
        return one if loads[0] < loads[1] else other


class LeastLoad:
    """The least loaded of all; ties are shared out at random by weight."""

    __slots__ = ()

    def pick(self, candidates: Sequence[B], now: float, rng: random.Random, key: bytes | None = None) -> B:
        best = candidates[0]
        if len(candidates) == 1:
            return best
        lowest, tied = float("inf"), 0.0
        for candidate in candidates:
            load = candidate.load(now)
            if load < lowest:
                best, lowest, tied = candidate, load, candidate.weight
            elif load == lowest:
                tied += candidate.weight
                if rng.random() * tied < candidate.weight:
                    best = candidate
        return best


def make_balancer(name: str) -> Balancer:
    """The balancer that gateway.yaml calls `name`. Raises KeyError for any other."""
    return _BALANCERS[name]()


_BALANCERS: dict[str, Callable[[], Balancer]] = {
    "round_robin": RoundRobin,
    "random": Random,
    "p2c": PowerOfTwo,
    "least_load": LeastLoad,
    "prefix": lambda: ConsistentHash(LeastLoad()),
    "session": lambda: ConsistentHash(LeastLoad()),
}


def _drawn(candidates: Sequence[B], rng: random.Random) -> B:
    """One at random, by weight."""
    point = rng.random() * sum([candidate.weight for candidate in candidates])
    for candidate in candidates:
        point -= candidate.weight
        if point < 0.0:
            return candidate
    return candidates[-1]  # rounding
