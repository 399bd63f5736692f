"""The native endpoints: one JSON object in, one out, for clients that want no API's conventions.

`/generate` becomes a chat completion of one user message (with `"raw": true` a text completion), `/generate_image` an
image generation. Fields that are not named here go to the backend as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.validation.errors import InvalidRequest
from gateway.validation.facts import Facts
from policies.outcome import ErrorKind

GENERATE = "/generate"
GENERATE_IMAGE = "/generate_image"
PATHS = frozenset({GENERATE, GENERATE_IMAGE})

_CHAT, _COMPLETIONS, _IMAGES = "/v1/chat/completions", "/v1/completions", "/v1/images/generations"
_OWN_TEXT_FIELDS = ("prompt", "inputs", "max_new_tokens", "parameters", "raw", "stream")
_OWN_IMAGE_FIELDS = ("width", "height", "steps", "stream")


def to_backend(path: str, facts: Facts) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """(API path, fields to set, fields to remove) of the request that answers a native one.

    Raises InvalidRequest for a stream, which has no native form.
    """
    if facts.stream:
        message = f'{path} gives one whole answer. For a stream use {_CHAT} with "stream": true.'
        raise InvalidRequest(ErrorKind.VALIDATION_ERROR, message, field_errors={"stream": [message]}, param="stream")
    if path == GENERATE_IMAGE:
        fields: dict[str, Any] = {"response_format": "b64_json"}
        if (size := facts.image_size) is not None:
            fields["size"] = f"{size[0]}x{size[1]}"
        if (steps := facts.steps) is not None:
            fields["num_inference_steps"] = steps
        return _IMAGES, fields, _OWN_IMAGE_FIELDS
    prompt = facts.field("prompt") or facts.field("inputs")
    nested = facts.field("parameters")
    fields = dict(nested) if isinstance(nested, dict) else {}
    if "max_new_tokens" in fields:
        fields.setdefault("max_tokens", fields.pop("max_new_tokens"))
    if facts.max_tokens is not None:
        fields["max_tokens"] = facts.max_tokens
    if facts.field("raw") is True:
        fields["prompt"] = prompt
        return _COMPLETIONS, fields, _OWN_TEXT_FIELDS[1:]
    fields["messages"] = [{"role": "user", "content": prompt}]
    return _CHAT, fields, _OWN_TEXT_FIELDS


def from_backend(path: str, body: bytes, told: Mapping[str, Any]) -> bytes | None:
    """The native answer made of the backend's, with `told` (model_used …) in it; None if it is unusable."""
    try:
        document = orjson.loads(body)
        answer = _image(document) if path == GENERATE_IMAGE else _text(document)
    except (orjson.JSONDecodeError, AttributeError, TypeError):  # not what such a server answers
        return None
    if answer is None:
        return None
    if isinstance(document.get("usage"), dict):
        answer["usage"] = document["usage"]
    if "warning" in document and "warning" not in told:
        answer["warning"] = document["warning"]
    return orjson.dumps({**answer, **told})


def _image(document: dict[str, Any]) -> dict[str, Any] | None:
    images = [entry.get("b64_json") for entry in document.get("data") or ()]
    if not images or not all(isinstance(image, str) for image in images):
        return None
    return {"image": images[0], "images": images} if len(images) > 1 else {"image": images[0]}


def _text(document: dict[str, Any]) -> dict[str, Any] | None:
    choice: dict[str, Any] = next(iter(document.get("choices") or ()), {})
    text = choice["text"] if "text" in choice else (choice.get("message") or {}).get("content")
    return {"generated_text": text, "finish_reason": choice.get("finish_reason")} if isinstance(text, str) else None
