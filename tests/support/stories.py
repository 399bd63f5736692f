"""Requests that are over, as the request log keeps them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from gateway.context import AttemptRecord
from gateway.observe.logs import RequestRecord
from gateway.observe.request_log import RequestStory
from policies.outcome import ErrorKind, Failure


def tried(
    backend: str, error: ErrorKind | None = None, *, status: int | None = None, fallback: bool = False, **fields: Any
) -> AttemptRecord:
    """An attempt that answered, or failed with `error`; `fields` are set on it."""
    attempt: Any = SimpleNamespace(candidate=SimpleNamespace(fallback=fallback))
    record = AttemptRecord(backend, "tiny", 1, "primary", 0.0, attempt)
    record.failure = None if error is None else Failure(error, "", status=status)
    for name, value in fields.items():
        setattr(record, name, value)
    return record


def story(
    correlation_id: str, error: ErrorKind | None = None, *attempts: AttemptRecord, at: float = 0.0, **fields: Any
) -> RequestStory:
    """A request that came at `at`; `fields` are those of its log line."""
    record: RequestRecord = {
        "correlation_id": correlation_id,
        "method": "POST",
        "path": "/v1/chat/completions",
        "route": "chat",
        "model": "tiny",
        "status": 200,
        "duration_ms": 1.0,
    }
    record.update(fields)  # type: ignore[typeddict-item]
    return RequestStory(record, at, error, attempts)
