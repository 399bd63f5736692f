"""What the gateway answers by itself on the data paths: the list of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import orjson

from gateway.errors.taxonomy import GatewayError
from gateway.identity import ApiKey

if TYPE_CHECKING:
    from gateway.runtime import Runtime

_MODELS = "/v1/models"


def models_answer(path: str, runtime: Runtime, key: ApiKey | None) -> bytes:
    """OpenAI's list of models, or one model; only those the key may use. Raises GatewayError for an unknown one."""
    names = [name for name in runtime.routes.names if key is None or key.allows(name)]
    if path == _MODELS:
        return orjson.dumps({"object": "list", "data": [_entry(runtime, name) for name in names]})
    wanted = unquote(path.removeprefix(_MODELS + "/"))
    if wanted not in names:
        raise GatewayError.model_not_found(wanted, names)
    return orjson.dumps(_entry(runtime, wanted))


def _entry(runtime: Runtime, name: str) -> dict[str, Any]:
    route = runtime.routes.find(name)
    entry: dict[str, Any] = {"id": name, "object": "model", "created": runtime.created, "owned_by": "seawall"}
    lengths = [c.context_length for tier in (route.tiers[:1] if route else ()) for c in tier if c.context_length]
    if lengths:
        entry["max_model_len"] = min(lengths)
    return entry
