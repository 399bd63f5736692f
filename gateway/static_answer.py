"""A route's `static_answer`: what clients get when every backend failed, in the shape of the API they asked.

No model wrote it and no tokens were used, which the answer says: its model is called `static`, its usage is zero. Where
a fixed text would be no answer (images, embeddings, a JSON schema, a required tool call), the error is told as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.validation.facts import Facts

#: The name that stands where a model's would.
MODEL = "static"
_CHAT, _COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_MESSAGES, _RESPONSES = "/v1/messages", "/v1/responses"
#: Fields that bind an answer to a form which a fixed text does not have.
_CONSTRAINTS = (
    *("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "grammar"),
    *("json_schema", "regex", "ebnf", "echo", "suffix", "functions"),
)
_FREE = (None, "auto", "none")
_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class _Words:
    """What an answer is made of; `created` is in seconds since the epoch."""

    text: str
    name: str
    created: int
    copies: int
    tells_usage: bool


def static_answer(path: str, facts: Facts, text: str, correlation_id: str, epoch: float) -> bytes | None:
    """The whole body, or the whole event stream if one was asked for; None where a text would be no answer.

    `path` is that of the API, `epoch` in seconds.
    """
    shapes = _SHAPES.get(path)
    if shapes is None or not _takes_any_text(facts):
        return None
    options = facts.field("stream_options")
    tells_usage = isinstance(options, dict) and options.get("include_usage") is True
    words = _Words(text, correlation_id, int(epoch), facts.n, tells_usage)
    whole, events = shapes
    return b"".join(events(words)) if facts.stream else orjson.dumps(whole(words))


def _takes_any_text(facts: Facts) -> bool:
    prompt = facts.field("prompt")
    if isinstance(prompt, list) and len(prompt) > 1 and type(prompt[0]) is not int:
        return False  # each of several prompts has an answer of its own
    choice = facts.field("tool_choice")
    if isinstance(choice, dict):
        choice = choice.get("type")
    nested = facts.field("text")
    formats = (facts.field("response_format"), nested.get("format") if isinstance(nested, dict) else None)
    plain = all(each is None or (isinstance(each, dict) and each.get("type") == "text") for each in formats)
    return plain and choice in _FREE and not any(facts.field(name) for name in _CONSTRAINTS)


# -- chat and completions ----------------------------------------------------------------------------------------------


def _usage() -> dict[str, int]:
    return {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def _head(words: _Words, prefix: str, kind: str) -> dict[str, Any]:
    return {"id": f"{prefix}-{words.name}", "object": kind, "created": words.created, "model": MODEL}


def _choices(words: _Words, finish_reason: str | None, **members: Any) -> list[dict[str, Any]]:
    ending = {"logprobs": None, "finish_reason": finish_reason}
    return [{"index": index, **members, **ending} for index in range(words.copies)]


def _chat(words: _Words) -> dict[str, Any]:
    message = {"role": "assistant", "content": words.text, "refusal": None}
    choices = _choices(words, "stop", message=message)
    return _head(words, "chatcmpl", "chat.completion") | {"choices": choices, "usage": _usage()}


def _completion(words: _Words) -> dict[str, Any]:
    choices = _choices(words, "stop", text=words.text)
    return _head(words, "cmpl", "text_completion") | {"choices": choices, "usage": _usage()}


def _chat_events(words: _Words) -> Iterable[bytes]:
    head = _head(words, "chatcmpl", "chat.completion.chunk")
    opened = _choices(words, None, delta={"role": "assistant", "content": ""})
    said = _choices(words, None, delta={"content": words.text})
    return _chunks(words, head, opened, said, _choices(words, "stop", delta={}))


def _completion_events(words: _Words) -> Iterable[bytes]:
    head = _head(words, "cmpl", "text_completion")
    return _chunks(words, head, _choices(words, None, text=words.text), _choices(words, "stop", text=""))


def _chunks(words: _Words, head: dict[str, Any], *choices: list[dict[str, Any]]) -> Iterable[bytes]:
    for each in choices:
        yield b"data: %b\n\n" % orjson.dumps(head | {"choices": each})
    if words.tells_usage:
        yield b"data: %b\n\n" % orjson.dumps(head | {"choices": [], "usage": _usage()})
    yield _DONE


# -- messages ----------------------------------------------------------------------------------------------------------


def _message(words: _Words) -> dict[str, Any]:
    content = [{"type": "text", "text": words.text}]
    return _begun_message(words) | {"content": content, "stop_reason": "end_turn"}


def _begun_message(words: _Words) -> dict[str, Any]:
    return {
        "id": f"msg_{words.name}",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def _message_events(words: _Words) -> Iterable[bytes]:
    yield _event({"type": "message_start", "message": _begun_message(words)})
    yield _event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    delta: dict[str, Any] = {"type": "text_delta", "text": words.text}
    yield _event({"type": "content_block_delta", "index": 0, "delta": delta})
    yield _event({"type": "content_block_stop", "index": 0})
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    yield _event({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 0}})
    yield _event({"type": "message_stop"})


def _event(event: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), orjson.dumps(event))


# -- responses ---------------------------------------------------------------------------------------------------------


def _response(words: _Words) -> dict[str, Any]:
    return _begun_response(words, "completed") | {
        "output": [_item(words, "completed", [_part(words.text)])],
        "usage": {
            "input_tokens": 0,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 0,
        },
    }


def _begun_response(words: _Words, status: str) -> dict[str, Any]:
    return {
        "id": f"resp_{words.name}",
        "object": "response",
        "created_at": words.created,
        "status": status,
        "model": MODEL,
        "output": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": False,
        "temperature": None,
        "tool_choice": "none",
        "tools": [],
        "top_p": None,
        "usage": None,
    }


def _item(words: _Words, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"msg_{words.name}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _response_events(words: _Words) -> Iterable[bytes]:
    begun = _begun_response(words, "in_progress")
    item, part = {"output_index": 0}, {"item_id": f"msg_{words.name}", "output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {"type": "response.output_item.added", **item, "item": _item(words, "in_progress", [])},
        {"type": "response.content_part.added", **part, "part": _part("")},
        {"type": "response.output_text.delta", **part, "delta": words.text, "logprobs": []},
        {"type": "response.output_text.done", **part, "text": words.text, "logprobs": []},
        {"type": "response.content_part.done", **part, "part": _part(words.text)},
        {"type": "response.output_item.done", **item, "item": _item(words, "completed", [_part(words.text)])},
        {"type": "response.completed", "response": _response(words)},
    ]
    for number, event in enumerate(events):
        yield _event(event | {"sequence_number": number})


_SHAPES: Mapping[str, tuple[Callable[[_Words], dict[str, Any]], Callable[[_Words], Iterable[bytes]]]] = {
    _CHAT: (_chat, _chat_events),
    _COMPLETIONS: (_completion, _completion_events),
    _MESSAGES: (_message, _message_events),
    _RESPONSES: (_response, _response_events),
}
