"""The stories of recent requests, for `GET /requests/{correlation_id}`: each attempt, why it was made, how it ended."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from gateway.errors.render import iso_timestamp
from gateway.observe.logs import RequestRecord
from policies.outcome import ErrorKind

if TYPE_CHECKING:
    from gateway.context import AttemptRecord

#: Characters kept of what a client wrote (path, model).
_MAX_TEXT = 200


class RequestStory:
    """One request that is over: what its log line says, and its attempts. Put into words when someone asks.

    `at` is when it came, in seconds since the epoch, and `began` the same in loop time; `error` is what the client was
    told. What the client wrote (path, model) is cut to 200 characters.
    """

    __slots__ = ("_record", "at", "attempts", "began", "correlation_id", "error")

    def __init__(
        self,
        record: RequestRecord,
        at: float,
        error: ErrorKind | None,
        attempts: Sequence[AttemptRecord] = (),
        began: float = 0.0,
    ) -> None:
        """Keeps `record` and `attempts`, which must not change any more."""
        path, model = record["path"], record["model"]
        if len(path) > _MAX_TEXT or (model is not None and len(model) > _MAX_TEXT):
            record = record.copy()
            record["path"] = path[:_MAX_TEXT]
            record["model"] = model and model[:_MAX_TEXT]
        self._record = record
        self.correlation_id = record["correlation_id"]
        self.at = at
        self.error = error
        self.attempts = attempts
        self.began = began

    @property
    def path(self) -> str:
        return self._record["path"]

    @property
    def route(self) -> str:
        return self._record["route"]

    @property
    def model(self) -> str | None:
        return self._record["model"]

    @property
    def status(self) -> int:
        return self._record["status"]

    @property
    def failed(self) -> bool:
        """Whether it was answered with an error; a client that left got none."""
        return self.error is not None and self.error is not ErrorKind.CLIENT_DISCONNECTED

    def to_dict(self) -> dict[str, Any]:
        return {
            "correlation_id": self.correlation_id,
            "timestamp": iso_timestamp(self.at),
            "method": self._record["method"],
            "path": self.path,
            "route": self.route,
            "model": self.model,
            "status": self.status,
            "outcome": "ok" if self.error is None else self.error.value,
            "duration_ms": self._record["duration_ms"],
            "attempts": [attempt.to_dict(self.began) for attempt in self.attempts],
        }


class _Ring:
    """The last stories by correlation ID; of two with the same ID the later one is kept."""

    __slots__ = ("_capacity", "_stories")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._stories: OrderedDict[str, RequestStory] = OrderedDict()

    def add(self, story: RequestStory) -> None:
        stories = self._stories
        before = len(stories)
        stories[story.correlation_id] = story
        if len(stories) == before:
            stories.move_to_end(story.correlation_id)
        elif before >= self._capacity:
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
