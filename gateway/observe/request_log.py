"""The stories of recent requests, for `GET /requests/{correlation_id}`: each attempt, why it was made, how it ended."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from gateway.errors.render import iso_timestamp
from policies.outcome import ErrorKind

#: Characters kept of what a client wrote (path, model).
_MAX_TEXT = 200


@dataclass(slots=True)
class AttemptStory:
    """One attempt. `why` says why this endpoint was chosen; `error` is None for the attempt that answered.

    One that was `beaten` was given up because another one answered first. `at_ms` is when it started, since the request
    came; `tokens` were seen of it, `wasted` when the client got no whole answer from it.
    """

    backend: str
    model: str
    why: str
    error: ErrorKind | None
    status: int | None
    ms: float
    fallback: bool = False
    beaten: bool = False
    at_ms: float = 0.0
    tokens: int = 0
    wasted: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {
            "backend": self.backend,
            "model": self.model,
            "why": self.why,
            "outcome": "beaten" if self.beaten else "ok" if self.error is None else self.error.value,
            "status": self.status,
            "at_ms": round(self.at_ms, 3),
            "ms": round(self.ms, 3),
            "fallback": self.fallback,
            "tokens": self.tokens,
            "tokens_wasted": self.tokens if self.wasted else 0,
        }


@dataclass(slots=True)
class RequestStory:
    """One request that is over.

    `at` is when it came, in seconds since the epoch; `error` is what the client was told. What the client wrote (path,
    model) is cut to 200 characters.
    """

    correlation_id: str
    at: float
    method: str
    path: str
    route: str
    model: str | None
    status: int
    error: ErrorKind | None
    duration_ms: float
    attempts: tuple[AttemptStory, ...] = ()

    def __post_init__(self) -> None:
        if len(self.path) > _MAX_TEXT:
            self.path = self.path[:_MAX_TEXT]
        if self.model is not None and len(self.model) > _MAX_TEXT:
            self.model = self.model[:_MAX_TEXT]

    @property
    def failed(self) -> bool:
        """Whether it was answered with an error; a client that left got none."""
        return self.error is not None and self.error is not ErrorKind.CLIENT_DISCONNECTED

    def to_dict(self) -> dict[str, Any]:
        return {
            "correlation_id": self.correlation_id,
            "timestamp": iso_timestamp(self.at),
            "method": self.method,
            "path": self.path,
            "route": self.route,
            "model": self.model,
            "status": self.status,
            "outcome": "ok" if self.error is None else self.error.value,
            "duration_ms": round(self.duration_ms, 3),
            "attempts": [attempt.to_dict() for attempt in self.attempts],
        }


class _Ring:
    """The last stories by correlation ID; of two with the same ID the later one is kept."""

    __slots__ = ("_capacity", "_stories")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._stories: OrderedDict[str, RequestStory] = OrderedDict()

    def add(self, story: RequestStory) -> None:
        stories = self._stories
        stories[story.correlation_id] = story
        stories.move_to_end(story.correlation_id)
        if len(stories) > self._capacity:
            stories.popitem(last=False)

    def get(self, correlation_id: str) -> RequestStory | None:
        return self._stories.get(correlation_id)

    def newest(self) -> Iterator[RequestStory]:
        return reversed(self._stories.values())


class RequestLog:
    """The last `capacity` requests and, so that a busy hour does not wash them away, the last failed ones.

    Adding and finding take constant time.
    """

    def __init__(self, capacity: int = 1000, failed_capacity: int = 1000) -> None:
        self._recent = _Ring(capacity)
        self._failed = _Ring(failed_capacity)

    def add(self, story: RequestStory) -> None:
        self._recent.add(story)
        if story.failed:
            self._failed.add(story)

    def find(self, correlation_id: str) -> list[RequestStory]:
        """What is known under an ID, newest first: the last request and, if another, the last failed one.

        Two, because clients send the same ID again when they retry, and the failure is what an operator looks for.
        """
        last, failed = self._recent.get(correlation_id), self._failed.get(correlation_id)
        found = [story for story in (last, failed) if story is not None]
        return found[:1] if last is failed else found

    def recent(self, limit: int, *, failed: bool = False) -> list[RequestStory]:
        """At most `limit` requests, newest first; with `failed`, only such."""
        return list(islice((self._failed if failed else self._recent).newest(), limit))
