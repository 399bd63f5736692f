"""Which of several equally good endpoints gets the next request."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from math import inf
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

    def burden(self, now: float) -> float:
        """Its load, or infinity where it cannot be asked now or others are to be asked first."""


B = TypeVar("B", bound=Balanced)


class Balancer(Protocol):
    """One way to choose."""

    def pick(self, candidates: Sequence[B], now: float, rng: random.Random, key: bytes | None = None) -> B:
        """One of the candidates, of which there is at least one.

        `key` is what requests have in common that should meet the same endpoint; only affinity heeds it.
        """

    def glance(self, tier: Sequence[B], now: float, rng: random.Random, heaviest: float, few: int) -> B | None:
        """One of a tier, of which some may have an infinite burden, as `pick` would give it of the others.

        What it costs does not grow with the tier beyond `few`, of which each may be drawn as well as any other; None
        when that cannot be had so, or each that it saw was burdened too much. `heaviest` is no less than any weight.
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
        best, highest = candidates[0], -inf
        for candidate in candidates:
            weight = candidate.weight
            total += weight
            current[candidate] = value = current.get(candidate, 0.0) + weight
            if value > highest:
                best, highest = candidate, value
        current[best] = highest - total
        return best

    def glance(self, tier: Sequence[B], now: float, rng: random.Random, heaviest: float, few: int) -> B | None:
        return None  # whose turn it is depends on all that can be asked


class Random:
    """By weight alone."""

    __slots__ = ()

    def pick(self, candidates: Sequence[B], now: float, rng: random.Random, key: bytes | None = None) -> B:
        return candidates[0] if len(candidates) == 1 else _drawn(candidates, rng)

    def glance(self, tier: Sequence[B], now: float, rng: random.Random, heaviest: float, few: int) -> B | None:
        one = tier[int(rng.random() * len(tier))]
        return one if one.burden(now) < inf and rng.random() * heaviest < one.weight else None


class PowerOfTwo:
    """The less loaded of two drawn at random.

    Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing": nearly as even as asking all, and replicas
    that don't know of each other's requests don't all run to the same endpoint.
    """

    __slots__ = ()

    def pick(self, candidates: Sequence[B], now: float, rng: random.Random, key: bytes | None = None) -> B:
        if len(candidates) == 1:
            return candidates[0]
        pair = _pair(candidates, rng)
        return _least(pair, [candidate.load(now) for candidate in pair], rng)

    def glance(self, tier: Sequence[B], now: float, rng: random.Random, heaviest: float, few: int) -> B | None:
        pair = _pair(tier, rng)
        burdens = [candidate.burden(now) for candidate in pair]
        return _least(pair, burdens, rng, heaviest) if min(burdens) < inf else None


class LeastLoad:
    """The least loaded of all; ties are shared out at random by weight."""

    __slots__ = ()

    def pick(self, candidates: Sequence[B], now: float, rng: random.Random, key: bytes | None = None) -> B:
        return _least(candidates, [candidate.load(now) for candidate in candidates], rng)

    def glance(self, tier: Sequence[B], now: float, rng: random.Random, heaviest: float, few: int) -> B | None:
        count = len(tier)
        one = tier[int(rng.random() * count)]
        if one.burden(now) == 0.0 and rng.random() * heaviest < one.weight:
            return one  # none can have less, and of those that have none each is as likely as its weight says
        looked_at = tier if few >= count else [one, *[tier[int(rng.random() * count)] for _ in range(few - 1)]]
        burdens = [candidate.burden(now) for candidate in looked_at]
        return _least(looked_at, burdens, rng, heaviest) if min(burdens) < inf else None


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


def _pair(candidates: Sequence[B], rng: random.Random) -> tuple[B, B]:
    """Two different ones of several, each as likely as any other."""
    first = int(rng.random() * len(candidates))
    second = int(rng.random() * (len(candidates) - 1))
    return candidates[first], candidates[second + (second >= first)]


def _least(candidates: Sequence[B], loads: list[float], rng: random.Random, heaviest: float = inf) -> B:
    """The one with the least of these loads; of several, one by weight. No weight is more than `heaviest`."""
    lowest = min(loads)
    at, tied = loads.index(lowest), loads.count(lowest)
    if tied > 1:
        for _ in range(int(rng.random() * tied)):
            at = loads.index(lowest, at + 1)
        if not rng.random() * heaviest < candidates[at].weight:  # drawn evenly, taken by weight; else drawn by weight
            return _drawn([candidate for candidate, load in zip(candidates, loads, strict=True) if load == lowest], rng)
    return candidates[at]


def _drawn(candidates: Sequence[B], rng: random.Random) -> B:
    """One at random, by weight."""
    point = rng.random() * sum([candidate.weight for candidate in candidates])
    for candidate in candidates:
        point -= candidate.weight
        if point < 0.0:
            return candidate
    return candidates[-1]  # rounding
