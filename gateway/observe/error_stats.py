"""Errors over the last hour: rates, the commonest patterns, and spikes, for `GET /errors`.

Counts stand in a ring of five-second slots that covers one hour, so memory is bounded and counting takes constant time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gateway.errors.render import iso_timestamp
from policies.outcome import ErrorKind

_SLOT = 5  # seconds
_HOUR = 3600 // _SLOT
_MINUTE = 60 // _SLOT

#: A spike is a last minute with at least this many errors ...
SPIKE_FLOOR = 10
#: ... and this many times the average minute of the hour before it.
SPIKE_FACTOR = 3.0

_TOP = 10
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/v1/responses": "response",
    "/v1/messages": "message",
    "/v1/embeddings": "embedding",
    "/v1/rerank": "rerank",
    "/v1/score": "score",
    "/v1/models": "models",
    "/v1/images/": "image",
    "/v1/audio/": "audio",
    "/tokenize": "tokenize",
    "/detokenize": "tokenize",
    "/generate_image": "image",
    "/generate": "completion",
}


def operation_for(path: str) -> str:
    """The class of a request's path: chat, completion, image, … and `other` for any path that is none of them."""
    known = _OPERATIONS.get(path)
    if known is not None:
        return known
    for prefix in ("/v1/images/", "/v1/audio/", "/v1/messages/", "/v1/responses/", "/v1/models/"):
        if path.startswith(prefix):
            return _OPERATIONS.get(prefix) or _OPERATIONS[prefix.rstrip("/")]
    return "other"


class _Hour:
    """Events of the last hour by slot."""

    __slots__ = ("_ahead", "_counts", "_slot")

    def __init__(self, now: float) -> None:
        self._slot = int(now // _SLOT)
        self._ahead = 0  # slots by which it is ahead of the clock
        self._counts = [0] * _HOUR

    def add(self, now: float) -> None:
        if int(now // _SLOT) + self._ahead != self._slot:
            self._advance(now)
        self._counts[self._slot % _HOUR] += 1

    def last(self, slots: int, now: float) -> int:
        """Events in the last `slots` slots, the current one among them."""
        self._advance(now)
        if slots >= _HOUR:
            return sum(self._counts)
        return sum(self._counts[slot % _HOUR] for slot in range(self._slot - slots + 1, self._slot + 1))

    def export(self) -> list[list[int]]:
        """[slot, events] of those that have any; slots are counted since the epoch."""
        slots = range(max(0, self._slot - _HOUR + 1), self._slot + 1)
        return [[slot - self._ahead, count] for slot in slots if (count := self._counts[slot % _HOUR])]

    def absorb(self, exported: Iterable[Sequence[int]]) -> None:
        """Adds another's events, as it exported them; what is over an hour old is left out."""
        for told, count in exported:
            slot = told + self._ahead
            self._reach(slot)
            if slot > self._slot - _HOUR:
                self._counts[slot % _HOUR] += count

    def _advance(self, now: float) -> None:
        slot = int(now // _SLOT) + self._ahead
        if slot < self._slot - _MINUTE:  # the clock was set back, and time goes on from where it was
            self._ahead += self._slot - slot
        self._reach(slot)

    def _reach(self, slot: int) -> None:
        if slot > self._slot:  # a clock set back by less leaves the events in the newest slot
            for passed in range(max(self._slot + 1, slot - _HOUR + 1), slot + 1):
                self._counts[passed % _HOUR] = 0
            self._slot = slot


class ErrorStats:
    """What went wrong lately. `clock` gives seconds since the epoch."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._started = now = clock()
        self._requests = _Hour(now)
        self._by_kind: dict[ErrorKind, _Hour] = {}
        self._totals: dict[ErrorKind, int] = {}
        self._patterns: dict[tuple[ErrorKind, str], tuple[int, float]] = {}

    def record(self, error: ErrorKind | None, path: str, now: float | None = None) -> None:
        """Counts a finished request; None for one that was answered. A client that left is no error."""
        now = self._clock() if now is None else now
        self._requests.add(now)
        if error is None or error is ErrorKind.CLIENT_DISCONNECTED:
            return
        hour = self._by_kind.get(error)
        if hour is None:
            hour = self._by_kind[error] = _Hour(now)
        hour.add(now)
        self._totals[error] = self._totals.get(error, 0) + 1
        pattern = error, operation_for(path)
        self._patterns[pattern] = self._patterns.get(pattern, (0, 0.0))[0] + 1, now

    def counts(self, now: float) -> dict[str, Any]:
        """The numbers behind a report, as JSON values; those of several processes make one with `report_of`."""
        return {
            "started": self._started,
            "requests": self._requests.last(_HOUR, now),
            "minute": {kind.value: hour.last(_MINUTE, now) for kind, hour in self._by_kind.items()},
            "hour": {kind.value: hour.last(_HOUR, now) for kind, hour in self._by_kind.items()},
            "totals": {kind.value: count for kind, count in self._totals.items()},
            "patterns": [
                [f"{kind.value}:{operation}", count, seen]
                for (kind, operation), (count, seen) in self._patterns.items()
            ],
        }

    def export(self) -> dict[str, Any]:
        """All that is known, as JSON values; see `absorb`."""
        return {
            "started": self._started,
            "requests": self._requests.export(),
            "by_kind": {kind.value: hour.export() for kind, hour in self._by_kind.items()},
            "totals": {kind.value: count for kind, count in self._totals.items()},
            "patterns": [[kind.value, operation, *seen] for (kind, operation), seen in self._patterns.items()],
        }

    def absorb(self, exported: Mapping[str, Any]) -> None:
        """Adds what another process exported before it ended."""
        self._started = min(self._started, exported["started"])
        self._requests.absorb(exported["requests"])
        for name, hour in exported["by_kind"].items():
            self._by_kind.setdefault(ErrorKind(name), _Hour(self._started)).absorb(hour)
        for name, count in exported["totals"].items():
            kind = ErrorKind(name)
            self._totals[kind] = self._totals.get(kind, 0) + count
        for name, operation, count, seen in exported["patterns"]:
            pattern = ErrorKind(name), operation
            before = self._patterns.get(pattern, (0, 0.0))
            self._patterns[pattern] = before[0] + count, max(before[1], seen)

    def report(self, now: float | None = None) -> dict[str, Any]:
        """Totals are since the start. `error_rate_per_minute` is the last minute's, `error_rate_per_hour` the last
        hour's, `error_rate` the share (0 to 1) of the last hour's requests."""
        now = self._clock() if now is None else now
        return report_of([self.counts(now)], now)


def report_of(counts: Sequence[Mapping[str, Any]], now: float) -> dict[str, Any]:
    """The report on one or more processes' counts, as in `ErrorStats.report`."""
    minute, hourly, totals = (_sum(one[name] for one in counts) for name in ("minute", "hour", "totals"))
    in_minute, in_hour = sum(minute.values()), sum(hourly.values())
    requests = sum(one["requests"] for one in counts)
    return {
        "total_errors": sum(totals.values()),
        "errors_last_minute": in_minute,
        "errors_last_hour": in_hour,
        "requests_last_hour": requests,
        "error_rate_per_minute": float(in_minute),
        "error_rate_per_hour": float(in_hour),
        "error_rate": round(in_hour / requests, 6) if requests else 0.0,
        "by_type": dict(_largest(totals)),
        "top_patterns": _top_patterns(pattern for one in counts for pattern in one["patterns"]),
        "spikes": _spikes(minute, hourly, now - min(one["started"] for one in counts)),
        "timestamp": iso_timestamp(now),
    }


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for kind, count in one.items():
            total[kind] = total.get(kind, 0) + count
    return total


def _top_patterns(patterns: Iterable[Sequence[Any]]) -> list[dict[str, Any]]:
    known: dict[str, tuple[int, float]] = {}
    for pattern, count, seen in patterns:
        before = known.get(pattern, (0, 0.0))
        known[pattern] = before[0] + count, max(before[1], seen)
    top = sorted(known.items(), key=lambda entry: entry[1], reverse=True)[:_TOP]
    return [{"pattern": pattern, "count": count, "last_seen": iso_timestamp(seen)} for pattern, (count, seen) in top]


def _spikes(minute: dict[str, int], hourly: dict[str, int], age: float) -> list[dict[str, Any]]:
    """The kinds whose last minute stands out from the rest of the hour, or of the `age` (seconds) since the start."""
    minutes = min(max(age / 60 - 1, 1.0), 59.0)
    spikes = []
    for kind, count in _largest(minute):
        average = (hourly[kind] - count) / minutes
        if count >= SPIKE_FLOOR and count >= SPIKE_FACTOR * average:
            spikes.append(
                {
                    "error_type": kind,
                    "errors_last_minute": count,
                    "average_per_minute": round(average, 3),
                    "factor": round(count / average, 1) if average else None,
                }
            )
    return spikes


def _largest(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda entry: entry[1], reverse=True)
