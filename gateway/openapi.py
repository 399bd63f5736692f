"""The gateway's own OpenAPI document."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from gateway import __version__, uploads
from gateway.admin import openapi as admin
from gateway.errors.kinds import KINDS
from gateway.paths import DATA_PATHS, HEALTH_PATHS
from gateway.validation.schemas import JSON_ENDPOINTS

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
_ERROR = {
    "type": "object",
    "properties": {"error": {"type": ["object", "string"], "properties": _ERROR_FIELDS}},
    "required": ["error"],
}
_WITH_PARAMETER = ("/v1/models/{model}", "/requests/{correlation_id}")


@lru_cache(maxsize=1)
def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document as JSON-able values."""
    error = {"description": "What went wrong and what to do.", "content": _json({"$ref": "#/components/schemas/Error"})}
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {"Error": _ERROR}
    answer = {"description": "The model's answer: JSON, server-sent events, or the bytes of a sound or an image."}
    for path in sorted(DATA_PATHS):
        media = "multipart/form-data" if path in uploads.ENDPOINTS else "application/json"
        paths[path] = {
            "post": {
                "operationId": path.strip("/").replace("/", "_"),
                "parameters": [_CORRELATION],
                "requestBody": {"required": True, "content": {media: {"schema": _body(path, schemas)}}},
                "responses": {"200": answer, "default": error},
            }
        }
    for path in sorted({*HEALTH_PATHS, "/status", "/errors", "/v1/models", "/openapi.json", *_WITH_PARAMETER}):
        name, _, parameter = path.strip("/").partition("{")
        operation: dict[str, Any] = {
            "operationId": name.strip("/").replace("/", "_").replace(".", "_") + ("_one" if parameter else ""),
            "responses": {"200": {"description": "The answer."}, "default": error},
        }
        if parameter:
            operation["parameters"] = [
                {"name": parameter.rstrip("}"), "in": "path", "required": True, "schema": {"type": "string"}}
            ]
        paths[path] = {"get": operation}
    paths |= admin.paths()
    return {
        "openapi": "3.1.0",
        "info": {"title": "Seawall", "version": __version__, "description": "A gateway in front of model backends."},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _body(path: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """The schema of a path's request body; what it refers to is added to `schemas`."""
    endpoint = uploads.ENDPOINTS[path].endpoint if path in uploads.ENDPOINTS else JSON_ENDPOINTS.get(path)
    if endpoint is None:
        return {"type": "object"}
    schema = TypeAdapter(endpoint.schema).json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    return schema


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
