"""Which endpoints of a tier may be used, given their circuits: ejection with a limit, and a gentle way back.

After Envoy's outlier detection (`max_ejection_percent`, panic threshold, slow start). There, panic sends traffic to all
hosts as if none were ejected; here the ejected ones get an early try each now and then, because a request that
meets a hanging model server waits for its timeout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from policies.breaker import CircuitBreaker, State


class HasBreaker(Protocol):
    """Anything with a circuit breaker."""

    @property
    def breaker(self) -> CircuitBreaker: ...


E = TypeVar("E", bound=HasBreaker)


def admitted(tier: Sequence[E], now: float) -> Sequence[E]:
    """Those whose circuit lets a request through; the tier itself when that is all of them."""
    for endpoint in tier:
        if not endpoint.breaker.allows(now):
            return [e for e in tier if e.breaker.allows(now)]
    return tier


def in_panic(tier: Sequence[HasBreaker], now: float, max_ejected: float) -> bool:
    """Whether more than `max_ejected` (a share) of the tier's circuits are open."""
    opened = sum([endpoint.breaker.state(now) is State.OPEN for endpoint in tier])
    return opened > max_ejected * len(tier)


def last_resort(tier: Sequence[E], now: float, max_ejected: float) -> list[E]:
    """Ejected endpoints that may be tried through `acquire_early`, for when `admitted` has none left to offer.

    Empty while no more than `max_ejected` are out: then they stay out.
    """
    if not in_panic(tier, now, max_ejected):
        return []
    return [endpoint for endpoint in tier if endpoint.breaker.allows_early(now)]


def slow_start(closed_at: float, now: float, window: float, floor: float) -> float:
    """Factor on the weight of an endpoint whose circuit closed at `closed_at` (minus infinity: never was open).

    Grows linearly from `floor` (more than 0, at most 1) to 1 within `window` seconds: a model server that has just come
    back has cold caches. A window of 0 turns it off.
    """
    age = now - closed_at
    if age >= window:
        return 1.0
    return floor + (1.0 - floor) * max(0.0, age) / window
