"""Reading a backend's answer without believing it: error bodies of every shape, and whether a 200 is one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

from backends.dialect import AnswerHead
from backends.texts import MAX_JUDGED, ends_of, without_echo

#: Bodies up to this size are parsed to be believed. A larger one (embeddings, images) would hold the event loop for
#: milliseconds, so only its ends are looked at: JSON that was cut does not end in its closing bracket.
MAX_PARSED = 256 * 1024

_STATUS_KEYS = ("code", "http_status_code", "status_code", "status")
_CUT_SHORT = ("abort", "error")
#: The endpoints whose answers are JSON whatever their content type says; elsewhere other types are believed.
_JSON_ENDPOINTS = (
    *("/v1/chat/", "/v1/completions", "/v1/embeddings", "/v1/models", "/v1/responses", "/v1/messages", "/v1/rerank"),
    *("/v1/score", "/v1/images/", "/tokenize", "/detokenize", "/generate"),
)
_JSON_VALUES = (dict, list)
_MEDIA = ("audio/", "image/", "video/", "application/octet-stream")


@dataclass(frozen=True, slots=True)
class ErrorFacts:
    """What an error body states. `text` is its message, or the body where there is none to find, without echoed input.

    `names` are its error type and code; `status` is the HTTP status that the body itself claims; `raw` is the
    message as it came; `body` the whole object, for a dialect that knows more fields.
    """

    text: str
    raw: str
    names: tuple[str, ...] = ()
    status: int | None = None
    param: str | None = None
    body: dict[str, Any] | None = None
    field_errors: dict[str, list[str]] | None = None

    @property
    def is_json(self) -> bool:
        """Whether a program wrote it for programs: intermediaries send HTML or plain text."""
        return self.body is not None


_latest: tuple[bytes, Any] = (b"null", None)


def parsed(body: bytes, limit: int = MAX_PARSED) -> Any:
    """The JSON value, to be read only, or None if it is not JSON or longer than `limit` bytes.

    The last one is kept: an answer is judged and then, at once, its usage is read.
    """
    global _latest
    if len(body) > limit:
        return None
    if body is not _latest[0]:
        try:
            _latest = body, orjson.loads(body)
        except orjson.JSONDecodeError:
            return None
    return _latest[1]


def error_facts(body: bytes) -> ErrorFacts:
    """Whatever can be learnt from an error body; never raises."""
    value = parsed(body)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = value[0]
    if not isinstance(value, dict):
        text = ends_of((body[:MAX_JUDGED] + body[MAX_JUDGED:][-MAX_JUDGED:]).decode("utf-8", "replace"))
        return ErrorFacts(text, text)
    return _facts(value)


def in_band_error(value: Any) -> ErrorFacts | None:
    """The error inside a parsed 200 body or stream event, or None if it is an answer.

    Errors are: a truthy top-level `error`, Anthropic's and the Responses API's `"type": "error"`, a failed response,
    the older servers' `"object": "error"`, and a choice whose `finish_reason` says that the server gave up.
    """
    if not isinstance(value, dict):
        return None
    type_ = value.get("type")
    if value.get("error") or type_ == "error" or value.get("object") == "error":
        return _facts(value)
    if type_ == "response.failed" and isinstance(response := value.get("response"), dict):
        return _facts(response)
    choices = value.get("choices")
    if isinstance(choices, list):
        for choice in choices:
            if isinstance(choice, dict) and choice.get("finish_reason") in _CUT_SHORT:
                text = "the answer ended with finish_reason abort or error"
                return ErrorFacts(text, text, status=500, body=value)
    return None


def defect(path: str, head: AnswerHead, body: bytes, value: Any) -> str | None:
    """Why a 2xx body cannot be what `path` promises, or None; `value` is the body parsed, None where it is not JSON."""
    if head.status in (204, 205):
        return None
    if not body:
        return "empty body"
    content_type = head.content_type
    if content_type == "application/json" and isinstance(value, _JSON_VALUES):
        return None  # the usual case
    if content_type == "text/html" or body[:256].lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "HTML instead of an answer"
    if content_type.startswith(_MEDIA):
        return None
    if content_type and "json" not in content_type and not path.startswith(_JSON_ENDPOINTS):
        return None
    if value is not None:
        return None if isinstance(value, _JSON_VALUES) else "JSON, but neither an object nor a list"
    if len(body) <= MAX_PARSED:
        return "not JSON, or cut short"
    first, last = body[:64].lstrip()[:1], body[-64:].rstrip()[-1:]
    return None if first + last in (b"{}", b"[]") else "not JSON, or cut short"


def _facts(value: dict[str, Any]) -> ErrorFacts:
    """From `{"error": {…}}`, `{"error": "…"}`, `{"detail": …}`, `{"message": …}` and mixtures of them."""
    error = value.get("error")
    inner: dict[str, Any] = error if isinstance(error, dict) else {}
    field_errors = _field_errors(value.get("detail"))
    message = ends_of(_message(value, error, inner, field_errors))
    names = (inner.get("code"), inner.get("type"), value.get("code"), value.get("error_type"), value.get("type"))
    param = inner.get("param", value.get("param"))
    return ErrorFacts(
        text=without_echo(message),
        raw=message,
        names=tuple(name for name in names if isinstance(name, str)),
        status=_claimed_status(inner) or _claimed_status(value),
        param=param if isinstance(param, str) else None,
        body=value,
        field_errors=field_errors,
    )


def _message(
    value: dict[str, Any], error: Any, inner: dict[str, Any], field_errors: dict[str, list[str]] | None
) -> str:
    if field_errors:
        return "; ".join(f"{field}: {', '.join(said)}" for field, said in field_errors.items())
    candidates = (inner.get("message"), error, inner.get("error"), value.get("message"), value.get("detail"))
    found = next((c for c in candidates if isinstance(c, str) and c), None)
    return found or orjson.dumps(value).decode()


_STATUS = re.compile(r"[45]\d\d")


def _claimed_status(holder: dict[str, Any]) -> int | None:
    for key in _STATUS_KEYS:
        claimed = holder.get(key)
        if isinstance(claimed, int | str) and _STATUS.fullmatch(str(claimed)):
            return int(claimed)
    return None


def _field_errors(detail: Any) -> dict[str, list[str]] | None:
    """FastAPI's `detail` list as `{"messages -> 0 -> role": ["Field required"]}`, at most 20 fields."""
    if not isinstance(detail, list):
        return None
    found: dict[str, list[str]] = {}
    for item in detail[:20]:
        if isinstance(item, dict) and isinstance(item.get("msg"), str) and isinstance(item.get("loc"), list):
            loc = [str(part) for part in item["loc"]]
            field = " -> ".join(loc[1:] if loc[:1] == ["body"] else loc)[:200]
            found.setdefault(field or "body", []).append(item["msg"][:200])
    return found or None
