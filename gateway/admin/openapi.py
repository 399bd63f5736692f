"""The operators' page and its acts, for `/openapi.json`."""

from __future__ import annotations

from typing import Any

from gateway.admin.acts import Verb

_ERROR = {
    "description": "What went wrong and what to do.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
_MEANING = {
    Verb.DRAIN: "Sends it nothing new; what runs there finishes.",
    Verb.EJECT: "Sends it nothing new and breaks off what runs there, to be tried elsewhere.",
    Verb.RESTORE: "Takes it back into service, with its circuit closed.",
    Verb.OPEN_BREAKER: "Holds its circuit open until it is closed or the backend is restored.",
    Verb.RESET_BREAKER: "Closes its circuit and forgets what was counted.",
}
_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
_TEXT = {"type": "string", "maxLength": 200}


def paths() -> dict[str, Any]:
    """The paths' part of the document."""
    found = {
        "/admin": {"get": _get("admin", "The page.", "text/html", {"type": "string"})},
        "/admin/state": {"get": _get("admin_state", "Everything that the page shows.", *_object())},
        "/admin/events": {
            "get": _get(
                "admin_events",
                "Server-sent events: `snapshot` once, as /admin/state; then `state` every second and after each act, "
                "without `history` and with `sample` and the finished `requests` instead.",
                "text/event-stream",
                {"type": "string"},
            )
        },
        "/admin/requests": {
            "get": _get("admin_requests", "Recent requests, newest first.", *_object())
            | {
                "parameters": [
                    _query("q", {"type": "string", "maxLength": 128}),
                    _query("outcome", {"type": "string", "enum": ["all", "failed", "hidden"]}),
                    _query("limit", {"type": "integer", "minimum": 1, "maximum": 200}),
                ]
            }
        },
        "/admin/reload": {
            "post": _post(
                "admin_reload",
                "Takes over the configuration file; with `dry_run`, only tells what would change. With `revision` "
                "(from a dry run) it is taken only if the file is still as it was shown; else 409.",
                [_query("dry_run", {"type": "boolean"})],
                revision=_TEXT,
            )
        },
    }
    for verb in Verb:
        name = f"admin_{verb.value.replace('/', '_')}"
        found[f"/admin/backends/{{name}}/{verb.value}"] = {"post": _post(name, _MEANING[verb], [_NAME])}
    return found


def _get(name: str, summary: str, media: str, schema: dict[str, Any]) -> dict[str, Any]:
    answer = {"description": summary, "content": {media: {"schema": schema}}}
    return {"operationId": name, "responses": {"200": answer, "default": _ERROR}}


def _post(name: str, summary: str, parameters: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    media, schema = _object()
    body = {"type": "object", "properties": {"operator": _TEXT, "reason": _TEXT, **more}}
    return {
        "operationId": name,
        "parameters": parameters,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": {"description": summary, "content": {media: {"schema": schema}}}, "default": _ERROR},
    }


def _query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _object() -> tuple[str, dict[str, Any]]:
    return "application/json", {"type": "object"}
