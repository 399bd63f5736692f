"""Reads a request's body once and says what is wrong with it, in the client's words.

JSON is read as RFC 8259 has it (orjson: no NaN, no comments, no byte order mark, UTF-8 alone). Of a repeated key the
last one counts, as with the JSON parsers of Python, llama.cpp and Go. Since other parsers take the first, or ignore
case, and a backend must never see another `model` than the one that was checked, a body that might name it twice is
sent on re-serialised, and `Model` or `MODEL` is refused.
"""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import orjson
from pydantic import ValidationError

from gateway import uploads
from gateway.sanitise import drop_lone_surrogates, may_hold_controls, sanitise_value
from gateway.validation.errors import (
    REQUIRED,
    InvalidRequest,
    Location,
    from_pydantic,
    unreadable,
    wrong_field,
    wrong_fields,
)
from gateway.validation.facts import Facts, JsonFacts
from gateway.validation.schemas import JSON_ENDPOINTS, UNKNOWN, Endpoint

MAX_DEPTH = 64
#: Arrays and objects in one body: each takes some 60 bytes of memory for two bytes sent.
MAX_CONTAINERS = 500_000

_SMALL = 4096  # bytes up to which counting brackets is cheaper than walking the document
_TOO_DEEP = f"The JSON of this request is nested more than {MAX_DEPTH} levels deep"
_CONTAINERS = frozenset({dict, list})
_MAX_MENDED_ESCAPES = 250_000  # mending looks at each of a body's escapes: some 0.2 s of work at most
_LARGE = 1 << 20  # bytes from which brackets are counted before parsing
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")  # no serializer writes these; they could spell `model` another way
_MISSPELT_MODEL = frozenset(map("".join, product(*((c, c.upper()) for c in "model")))) - {"model"}


def parse_body(path: str, content_type: str, body: bytes) -> Facts:
    """Checks the body of a request for `path` (without query) and returns what there is to know of it.

    `content_type` is the header's value, empty if there was none. An unknown path's body is read if it is JSON or a
    form, and let through otherwise. Raises InvalidRequest.
    """
    endpoint = JSON_ENDPOINTS.get(path)
    if content_type == "application/json" and endpoint is not None:
        return _parse_json(endpoint, body)
    media_type = content_type.partition(";")[0].strip().lower()
    is_json = media_type in ("application/json", "text/json") or media_type.endswith("+json")
    if media_type == "multipart/form-data" and (path in uploads.ENDPOINTS or endpoint is None):
        return uploads.parse_multipart(path, content_type, body)
    if endpoint is not None:
        if media_type and not is_json:
            raise unreadable("The Content-Type of this request must be application/json")
        return _parse_json(endpoint, body)
    if path in uploads.ENDPOINTS:
        raise unreadable("The Content-Type of this request must be multipart/form-data")
    return _parse_json(UNKNOWN, body) if is_json and body else Facts(body)


def _parse_json(endpoint: Endpoint, body: bytes) -> JsonFacts:
    document, changed = _load(body)
    if len(body) > _SMALL or body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_depth(document)
    if not _MISSPELT_MODEL.isdisjoint(document):
        raise wrong_fields([((name,), "must be spelt model") for name in document if name in _MISSPELT_MODEL])
    if body.count(b'"model"') > 1:
        changed = True
    if may_hold_controls(body):
        document, sanitised = _sanitise(endpoint, document)
        changed = changed or sanitised or _ESCAPED_LETTER.search(body) is not None
    try:
        fields = endpoint.validate(document)
    except ValidationError as error:
        raise from_pydantic(error) from None
    if fields.get("parameters"):
        fields = _flatten(fields)
    _check_together(endpoint, fields, document)
    return JsonFacts(orjson.dumps(document) if changed else body, endpoint, document, fields)


def _load(body: bytes) -> tuple[dict[str, Any], bool]:
    """The parsed body, and whether it had to be mended to be read."""
    if len(body) > _LARGE and body.count(b"[") + body.count(b"{") > MAX_CONTAINERS:
        raise unreadable("The JSON of this request has too many arrays and objects")
    mended = False
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if "surrogate" not in error.msg or "UTF-8" in error.msg or body.count(b"\\") > _MAX_MENDED_ESCAPES:
            raise _unreadable_json(body, error) from None
        document, mended = _load_without_surrogates(body), True
    if type(document) is not dict:
        raise unreadable("The body of this request must be a JSON object")
    return document, mended


def _load_without_surrogates(body: bytes) -> Any:
    try:
        return orjson.loads(drop_lone_surrogates(body))
    except orjson.JSONDecodeError as error:
        raise _unreadable_json(body, error) from None


def _unreadable_json(body: bytes, error: orjson.JSONDecodeError) -> InvalidRequest:
    if not body.strip():
        return unreadable("The body of this request is empty; a JSON object is expected")
    if "not valid UTF-8" in error.msg:
        return unreadable("The body of this request is not valid UTF-8")
    if "depth" in error.msg:
        return unreadable(_TOO_DEEP)
    where = f"line {error.lineno}, column {error.colno}"
    return unreadable(f"The body of this request is not valid JSON: {error.msg} ({where})")


def _check_depth(document: dict[str, Any]) -> None:
    """Level by level, so that no depth can exhaust the stack; the types of long lists are gathered in C."""
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for container in level:
            values = container.values() if type(container) is dict else container
            if not _CONTAINERS.isdisjoint(map(type, values)):
                below.extend(value for value in values if type(value) in _CONTAINERS)
        if not below:
            return
        level = below
    raise unreadable(_TOO_DEEP)


def _sanitise(endpoint: Endpoint, document: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The document with its text fields free of control characters, and whether that changed it."""
    emptied: list[Location] = []
    clean = {name: sanitise_value(document.get(name), (name,), emptied) for name in endpoint.text}
    if emptied:
        raise wrong_fields([(location, "must not be empty: it held only control characters") for location in emptied])
    changes = {name: value for name, value in clean.items() if value is not document.get(name)}
    return ({**document, **changes}, True) if changes else (document, False)


def _flatten(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with those of TGI's `parameters` among them; servers differ in which of two they would take."""
    nested = {name: value for name, value in fields["parameters"].items() if value is not None}
    twice = [name for name in nested if fields.get(name) is not None]
    if twice:
        raise wrong_fields([(("parameters", name), "is also given outside parameters") for name in twice])
    return {**fields, **nested}


def _check_together(endpoint: Endpoint, fields: dict[str, Any], document: dict[str, Any]) -> None:
    """What no field can tell on its own."""
    if endpoint.one_of and all(document.get(name) is None for name in endpoint.one_of):
        raise wrong_field(endpoint.one_of[0], REQUIRED)
    if fields.get("stream_options") is not None and fields.get("stream") is not True:
        raise wrong_field("stream_options", "can only be given when stream is true")
