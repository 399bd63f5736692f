"""Error bodies: OpenAI's shape, Anthropic's, the native flat one and RFC 9457 problem details.

Rendering never fails: an error about an error would hide the first one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import orjson

from gateway.errors.taxonomy import GatewayError

PROBLEM_JSON = "application/problem+json"


class Rendering(Enum):
    """The shape of an error body."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    NATIVE = "native"
    PROBLEM = "problem"


def rendering_for(path: str, accept: str | None = None) -> Rendering:
    """The shape that a client of `path` (no query string) expects, given its `Accept` header.

    For an in-stream error leave `accept` out: a frame follows the stream's own protocol.
    """
    if accept and PROBLEM_JSON in accept.lower() and _prefers_problem(accept):
        return Rendering.PROBLEM
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return Rendering.ANTHROPIC
    if path.startswith(("/generate", "/generate_image")):
        return Rendering.NATIVE
    return Rendering.OPENAI


def render(
    error: GatewayError, rendering: Rendering, correlation_id: str, timestamp: float
) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of an error answer; `timestamp` is in seconds since the epoch.

    The headers are those that belong to the error: the content type, `x-should-retry`, and where retrying helps
    `Retry-After` (whole seconds, rounded up) and `retry-after-ms`; in Anthropic's shape its SDK's `request-id`.
    """
    body = _SHAPES[rendering](error, _extras(error, correlation_id, timestamp))
    headers = {"Content-Type": PROBLEM_JSON if rendering is Rendering.PROBLEM else "application/json"}
    if rendering is Rendering.ANTHROPIC:
        headers["request-id"] = correlation_id
    return error.status, {**headers, **retry_headers(error), **error.headers}, _dump(body)


def render_frame(error: GatewayError, rendering: Rendering, correlation_id: str, timestamp: float) -> bytes:
    """The server-sent event that ends a stream which has begun; the connection closes after it, without `[DONE]`."""
    if rendering is Rendering.PROBLEM:
        rendering = Rendering.OPENAI
    data = _dump(_SHAPES[rendering](error, _extras(error, correlation_id, timestamp)))
    event = b"event: error\n" if rendering is Rendering.ANTHROPIC else b""
    return event + b"data: " + data + b"\n\n"


def retry_headers(error: GatewayError) -> dict[str, str]:
    """The retry advice that the SDKs obey."""
    if not error.is_retryable:
        return {"x-should-retry": "false"}
    headers = {"x-should-retry": "true"}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
        headers["retry-after-ms"] = str(math.ceil(error.retry_after * 1000))
    return headers


def iso_timestamp(epoch: float) -> str:
    """`2026-01-01T00:00:00.000Z`, in UTC, cut to the millisecond."""
    whole = math.floor(epoch)
    millis = math.floor((epoch - whole) * 1000)
    return f"{_iso_second(whole)}.{millis:03d}Z"


@lru_cache(maxsize=8)
def _iso_second(epoch: int) -> str:
    return f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%dT%H:%M:%S}"


def _extras(error: GatewayError, correlation_id: str, timestamp: float) -> dict[str, Any]:
    """The fields that every shape carries."""
    return {
        "error_type": error.kind.value,
        "is_retryable": error.is_retryable,
        "details": error.details,
        "correlation_id": correlation_id,
        "timestamp": iso_timestamp(timestamp),
    }


def _openai(error: GatewayError, extras: dict[str, Any]) -> dict[str, Any]:
    own = {"message": error.message, "type": error.type, "code": error.code, "param": error.param}
    return {"error": own | extras}


def _anthropic(error: GatewayError, extras: dict[str, Any]) -> dict[str, Any]:
    own = {
        "type": error.anthropic_type,
        "message": error.message,
        "code": error.code,
        "param": error.param,
    }
    return {"type": "error", "error": own | extras, "request_id": extras["correlation_id"]}


def _native(error: GatewayError, extras: dict[str, Any]) -> dict[str, Any]:
    return {"error": error.message, **extras}


def _problem(error: GatewayError, extras: dict[str, Any]) -> dict[str, Any]:
    own = {
        "type": f"urn:seawall:error:{error.kind.value}",
        "title": error.title,
        "status": error.status,
        "detail": error.message,
        "instance": "/requests/" + quote(extras["correlation_id"], safe=""),
        "code": error.code,
        "param": error.param,
    }
    return own | extras


_SHAPES: Mapping[Rendering, Callable[[GatewayError, dict[str, Any]], dict[str, Any]]] = {
    Rendering.OPENAI: _openai,
    Rendering.ANTHROPIC: _anthropic,
    Rendering.NATIVE: _native,
    Rendering.PROBLEM: _problem,
}


def _dump(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body, default=str, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:
        # A lone surrogate in a name that the client sent: orjson refuses it, an ASCII escape carries it.
        return json.dumps(body, default=str, separators=(",", ":")).encode("ascii")


def _prefers_problem(accept: str) -> bool:
    """Whether problem+json is wanted, and not less than plain JSON (RFC 9110 12.5.1: a missing q is 1)."""
    weights = dict(map(_media_range, accept.split(",")))
    wanted = weights.get(PROBLEM_JSON, 0.0)
    return wanted > 0 and wanted >= weights.get("application/json", 0.0)


def _media_range(text: str) -> tuple[str, float]:
    media, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return media, float(value)
            except ValueError:
                return media, 0.0
    return media, 1.0
