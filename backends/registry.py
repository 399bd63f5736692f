"""Provisional."""

from __future__ import annotations

import orjson

from backends.dialect import Dialect, ResponseHead, Usage
from policies.outcome import ErrorKind, Failure


class _Provisional:
    name = "provisional"
    health_path = "/health"
    metrics_path: str | None = "/metrics"

    def classify(self, path: str, head: ResponseHead, body: bytes) -> Failure | None:
        if head.status == 200:
            try:
                orjson.loads(body)
            except orjson.JSONDecodeError:
                return Failure(ErrorKind.GENERATION_FAILED, "garbage", status=200)
            return None
        if head.status == 503:
            return Failure(ErrorKind.MODEL_OVERLOADED, "busy", status=503, retry_after=1.0)
        if head.status >= 500:
            return Failure(ErrorKind.GENERATION_FAILED, "failed", status=head.status)
        return Failure(ErrorKind.INVALID_INPUT, "bad", status=head.status)

    def classify_frame(self, data: bytes) -> Failure | None:
        return Failure(ErrorKind.GENERATION_FAILED, "in stream", status=200)

    def usage(self, body: bytes) -> Usage | None:
        try:
            u = orjson.loads(body).get("usage")
        except orjson.JSONDecodeError:
            return None
        return Usage(u["prompt_tokens"], u.get("completion_tokens", 0)) if u else None


def dialect_for(kind: str) -> Dialect:
    return _Provisional()
