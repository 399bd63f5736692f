"""The gateway's own OpenAPI document."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from gateway import __version__, uploads
from gateway.admin import openapi as admin
from gateway.errors.kinds import KINDS
from gateway.paths import DATA_PATHS, HEALTH_PATHS

_CORRELATION = {
    "name": "X-Correlation-ID",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "maxLength": 128, "pattern": "^[A-Za-z0-9._:/+=-]{1,128}$"},
}
_ERROR_FIELDS = {
    "message": {"type": "string"},
    "type": {"type": "string"},
    "code": {"type": "string"},
    "param": {"type": ["string", "null"]},
    "error_type": {"type": "string", "enum": [kind.value for kind in KINDS]},
    "is_retryable": {"type": "boolean"},
    "details": {"type": "object"},
    "correlation_id": {"type": "string"},
    "timestamp": {"type": "string", "format": "date-time"},
}


@lru_cache(maxsize=1)
def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document as JSON-able values."""
    error = {"description": "What went wrong and what to do.", "content": _json({"$ref": "#/components/schemas/Error"})}
    paths: dict[str, Any] = {}
    for path in sorted(DATA_PATHS):
        media = "multipart/form-data" if path in uploads.ENDPOINTS else "application/json"
        paths[path] = {
            "post": {
                "operationId": path.strip("/").replace("/", "_"),
                "parameters": [_CORRELATION],
                "requestBody": {"required": True, "content": {media: {"schema": {"type": "object"}}}},
                "responses": {"200": {"description": "The model's answer."}, "default": error},
            }
        }
    for path in sorted({*HEALTH_PATHS, "/status", "/errors", "/v1/models"}):
        paths[path] = {
            "get": {
                "operationId": path.strip("/").replace("/", "_"),
                "responses": {"200": {"description": "The answer."}, "default": error},
            }
        }
    paths |= admin.paths()
    return {
        "openapi": "3.1.0",
        "info": {"title": "Seawall", "version": __version__, "description": "A gateway in front of model backends."},
        "paths": paths,
        "components": {
            "schemas": {
                "Error": {
                    "type": "object",
                    "properties": {"error": {"type": "object", "properties": _ERROR_FIELDS}},
                    "required": ["error"],
                }
            }
        },
    }


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
