"""Requests that have something in common go to the same endpoint, so that its KV cache serves them.

Rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates") picks the endpoint: for
the few endpoints of a tier it is simpler than a ring, even without virtual nodes, and weights are exact. Bounded loads
(Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads") keep a popular key from flooding its own: an
endpoint with more than `SLACK` times its share of what is in flight is passed over for the key's next one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b
from math import log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policies.balance import B, Balancer

#: How much more than its fair share an endpoint may have in flight.
SLACK = 1.25
#: Up to this many in flight per unit of weight it is not flooded, whatever its share: idle times keep their cache hits.
FREE = 4
_MASK = 0xFFFFFFFFFFFFFFFF
_UNIT = 1.0 / (1 << 52)


class ConsistentHash:
    """A `Balancer` that follows the key; one without a key is left to `otherwise`."""

    __slots__ = ("_otherwise", "_seeds")

    def __init__(self, otherwise: Balancer) -> None:
        self._otherwise = otherwise
        self._seeds: dict[str, int] = {}

    def pick(self, candidates: Sequence[B], now: float, rng: random.Random, key: bytes | None = None) -> B:
        if len(candidates) == 1:
            return candidates[0]
        if key is None:
            return self._otherwise.pick(candidates, now, rng)
        in_flight, weight = 1, 0.0  # the request to place counts
        for candidate in candidates:
            in_flight += candidate.in_flight
            weight += candidate.weight
        share = max(FREE, SLACK * in_flight / weight)
        hashed = _hash(key)
        best, highest = candidates[0], float("-inf")
        for candidate in candidates:
            own = candidate.weight
            # All shares together are more than what is in flight, so one candidate at least is below its own.
            if candidate.in_flight >= share * own:
                continue
            score = -own / log(self._point(candidate.name, hashed))
            if score > highest:
                best, highest = candidate, score
        return best

    def glance(self, tier: Sequence[B], now: float, rng: random.Random, heaviest: float, few: int) -> B | None:
        return self._otherwise.glance(tier, now, rng, heaviest, few)

    def _point(self, name: str, hashed: int) -> float:
        """A number in (0, 1), fixed for a name and a key."""
        seed = self._seeds.get(name)
        if seed is None:
            if len(self._seeds) >= 4096:
                self._seeds.clear()
            seed = self._seeds[name] = _hash(name.encode())
        # The finaliser of splitmix64: every bit of the input moves every bit of the output.
        mixed = (hashed ^ seed) & _MASK
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((mixed ^ (mixed >> 31)) >> 12) * _UNIT + _UNIT / 2


def _hash(data: bytes) -> int:
    # Not hash(): that differs between processes, and replicas have to agree.
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
