"""Several workers' parts of the page as one: loads and counts added up; of what they disagree on, the worst.

The worst, because some requests meet it; the page says how many of the workers see it so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

from gateway.admin.stories import percentiles
from gateway.processes.merge import ADDED, BREAKERS
from gateway.processes.tally import added

_STATUSES = ("healthy", "degraded", "critical")
_LEVELS = ("full", "reduced", "minimal")
#: What a server tells each worker of itself: the same fact, of which the highest is the latest to worry about.
_HIGHEST = ("waiting", "kv_cache", "gpu_memory", "retry_after")
_Part = Mapping[str, Any]


def backends(parts: Sequence[_Part]) -> list[dict[str, Any]]:
    """Each backend as all workers see it, in the first worker's order."""
    return [_backend(seen) for seen in _by_name(part["backends"] for part in parts)]


def routes(parts: Sequence[_Part], gone: Mapping[str, _Part]) -> list[dict[str, Any]]:
    """Each route with the counts of all workers, those `gone` included; a target is usable if every worker may ask
    it."""
    return [_route(seen, gone.get(seen[0]["name"])) for seen in _by_name(part["routes"] for part in parts)]


def health(reports: Sequence[_Part]) -> dict[str, Any]:
    """The worst of each check, and of the whole."""
    checks: dict[str, Any] = {}
    for report in reports:
        for name, check in report["checks"].items():
            known = checks.get(name)
            if known is None or _rank(_STATUSES, check["status"]) > _rank(_STATUSES, known["status"]):
                checks[name] = check
    overall = max((report["overall_status"] for report in reports), key=lambda one: _rank(_STATUSES, one))
    failures = dict.fromkeys(name for report in reports for name in report["critical_failures"])
    return {**reports[0], "overall_status": overall, "checks": checks, "critical_failures": list(failures)}


def newest(lists: Iterable[Sequence[_Part]], key: str, limit: int) -> list[Any]:
    """The newest entries of several lists by the ISO time under `key`."""
    return sorted((entry for entries in lists for entry in entries), key=lambda each: each[key], reverse=True)[:limit]


def _by_name(lists: Iterable[Sequence[_Part]]) -> Iterable[list[_Part]]:
    found: dict[str, list[_Part]] = {}
    for entries in lists:
        for entry in entries:
            found.setdefault(entry["name"], []).append(entry)
    return found.values()


def _backend(seen: Sequence[_Part]) -> dict[str, Any]:
    worst = max(seen, key=lambda one: not one["healthy"])
    merged = {**worst, "breaker": _breaker(seen), "lately": _lately(seen)}
    merged |= {name: sum(one[name] for one in seen) for name in ADDED}
    merged |= {name: max((one[name] for one in seen if one[name] is not None), default=None) for name in _HIGHEST}
    agreeing = sum(one["healthy"] == worst["healthy"] for one in seen)
    if agreeing < len(seen):
        merged["message"] = f"{worst['message']} (as {agreeing} of {len(seen)} workers see it)"
    return merged


def _breaker(seen: Sequence[_Part]) -> dict[str, Any]:
    circuits = [one["breaker"] for one in seen]
    worst = max(circuits, key=lambda one: BREAKERS.index(one["state"]))
    agreeing = sum(one["state"] == worst["state"] for one in circuits)
    return {
        **worst,
        "forced": any(one["forced"] for one in circuits),
        "requests": sum(one["requests"] for one in circuits),
        "failures": sum(one["failures"] for one in circuits),
        "seen_by": f"{agreeing} of {len(seen)} workers" if agreeing < len(seen) else None,
    }


def _lately(seen: Sequence[_Part]) -> dict[str, Any] | None:
    parts = [one["lately"] for one in seen if one["lately"] is not None]
    if not parts:
        return None
    times = sorted(ms for part in parts for ms in part["ms"])
    return {"ok": len(times), "failed": sum(part["failed"] for part in parts), **percentiles(times)}


def _route(seen: Sequence[_Part], gone: _Part | None) -> dict[str, Any]:
    counted = reduce(added, [*seen, gone] if gone is not None else seen)
    unusable = {target["backend"] for one in seen for tier in one["tiers"] for target in tier if not target["usable"]}
    levels = [one["degradation"] for one in seen if one["degradation"] is not None]
    return {
        **seen[0],
        **{name: counted[name] for name in ("ok", "retries", "errors")},
        "queued": sum(one["queued"] for one in seen),
        "tiers": [
            [{**target, "usable": target["backend"] not in unusable} for target in tier] for tier in seen[0]["tiers"]
        ],
        "degradation": max(levels, key=lambda level: _rank(_LEVELS, level), default=None),
    }


def _rank(order: Sequence[str], word: str) -> int:
    return order.index(word) if word in order else len(order)
