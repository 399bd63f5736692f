"""Token counts, wherever a server puts them."""

from __future__ import annotations

from typing import Any

import orjson

from backends.answers import MAX_PARSED, parsed
from backends.dialect import Usage

_TAIL = 4096


def usage_in(body: bytes) -> Usage | None:
    """Tokens from a whole answer or from one stream event's data; None where none are stated.

    Reads OpenAI's `usage` (also in the Responses API's events), Anthropic's (also in `message_start`), TGI's
    `details`, and the native counts of Ollama and llama.cpp. In a body too large to parse only the end is searched,
    which is where the servers write it.
    """
    if len(body) > MAX_PARSED:
        return _from_tail(body[-_TAIL:])
    value = parsed(body)
    if isinstance(value, list):
        value = value[0] if value else None
    if not isinstance(value, dict):
        return None
    if isinstance(usage := value.get("usage"), dict):
        return _counts(usage, _USAGE_KEYS)
    for holder in (value.get("response"), value.get("message")):
        if isinstance(holder, dict) and isinstance(usage := holder.get("usage"), dict):
            return _counts(usage, _USAGE_KEYS)
    if isinstance(details := value.get("details"), dict):
        return _tgi(details)
    return _counts(value, _NATIVE_KEYS)


_USAGE_KEYS = (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens"))
_NATIVE_KEYS = (("prompt_eval_count", "eval_count"), ("tokens_evaluated", "tokens_predicted"))


def _counts(holder: dict[str, Any], keys: tuple[tuple[str, str], ...]) -> Usage | None:
    for prompt, completion in keys:
        if prompt in holder or completion in holder:
            return Usage(_count(holder.get(prompt)), _count(holder.get(completion)))
    return None


def _tgi(details: dict[str, Any]) -> Usage | None:
    if "generated_tokens" not in details:
        return None
    prefill = details.get("prefill")
    prompt = details.get("input_length") or (len(prefill) if isinstance(prefill, list) else 0)
    return Usage(_count(prompt), _count(details["generated_tokens"]))


def _count(number: object) -> int:
    """A count as stated, 0 for null and for nonsense."""
    return number if type(number) is int and number >= 0 else 0


def _from_tail(tail: bytes) -> Usage | None:
    """The last `"usage": {…}`. Inside a JSON string its quotes would be escaped, so this cannot be the model's text."""
    at = tail.rfind(b'"usage"')
    opening = tail.find(b"{", at)
    if at < 0 or opening < 0:
        return None
    closing = opening
    while (closing := tail.find(b"}", closing + 1)) >= 0:
        try:
            usage = orjson.loads(tail[opening : closing + 1])
        except orjson.JSONDecodeError:
            continue
        return _counts(usage, _USAGE_KEYS)
    return None
