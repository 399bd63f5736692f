"""Several workers' status and errors as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from policies.degrade import Level

#: From the best to the worst.
BREAKERS = ("closed", "half_open", "open")
#: What is added up of an endpoint's snapshots.
ADDED = ("in_flight", "limit", "connections")


def merge_endpoints(statuses: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Endpoints' snapshots by name: loads added up; of health and breakers the worst, as some requests meet it."""
    merged: dict[str, Any] = {}
    for status in statuses:
        for name, one in status["endpoints"].items():
            known = merged.get(name)
            merged[name] = dict(one) if known is None else _worse(known, one)
    return merged


def merge_route(seen: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What differs between workers of one route: all that wait, and the strongest degradation."""
    return {
        "waiting": sum(one["waiting"] for one in seen),
        "degradation_level": Level(max(one["degradation"] for one in seen)).label,
    }


def _worse(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    rank = [BREAKERS.index(one["breaker"]) + (0 if one["healthy"] else 3) for one in (a, b)]
    joined = dict(a if rank[0] >= rank[1] else b)
    for name in ADDED:
        if name in a and name in b:
            joined[name] = a[name] + b[name]
    return joined
