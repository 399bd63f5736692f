"""Streams whose events name their type: Anthropic's Messages and OpenAI's Responses.

What text an event holds, what tells it from others of its type, and the names that a stream of responses goes by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Where a piece of text belongs: a choice, content block or output item, and the member or part that holds it.
Slot = tuple[int, str]
#: An event without new text: its type and the block or item that it is about.
Mark = tuple[str, int]

_MESSAGE_TEXTS = ("text", "thinking")
_RESPONSE = "response."
#: Deltas of text, and the member that numbers the parts of their item.
_RESPONSE_TEXTS: Mapping[str, str] = {
    "response.output_text.delta": "content_index",
    "response.refusal.delta": "content_index",
    "response.reasoning_text.delta": "content_index",
    "response.reasoning_summary_text.delta": "summary_index",
}
#: Events that say where text begins or ends, or repeat it whole.
_RESPONSE_FRAMES = frozenset(
    {
        *("response.created", "response.queued", "response.in_progress"),
        *("response.completed", "response.incomplete"),
        *("response.output_text.done", "response.refusal.done"),
        *("response.reasoning_text.done", "response.reasoning_summary_text.done"),
        *("response.content_part.added", "response.content_part.done"),
        *("response.reasoning_part.added", "response.reasoning_part.done"),
        *("response.reasoning_summary_part.added", "response.reasoning_summary_part.done"),
    }
)
_RESPONSE_ITEMS = frozenset({"response.output_item.added", "response.output_item.done"})
_TEXT_ITEMS = ("message", "reasoning")


def typed_texts(document: Mapping[str, Any], kind: str) -> list[tuple[Slot, str]] | None:
    """The texts in one event of that type; None if it holds anything else of the answer."""
    if not all(isinstance(document.get(name, 0), int) for name in ("index", "output_index")):
        return None
    return _response_texts(document, kind) if kind.startswith(_RESPONSE) else _message_texts(document, kind)


def mark_of(document: Mapping[str, Any]) -> Mark:
    """What tells an event without text from the others of its stream."""
    index = document.get("index", document.get("output_index", 0))
    return (str(document.get("type")), index if isinstance(index, int) else 0)


def with_text(document: dict[str, Any], text: str, name: str) -> dict[str, Any]:
    """The event with only this text in it, of the slot that has this name."""
    delta = document["delta"]
    return document | {"delta": text if isinstance(delta, str) else delta | {name: text}}


def _message_texts(document: Mapping[str, Any], kind: str) -> list[tuple[Slot, str]] | None:
    if kind == "content_block_start":
        block = _object(document.get("content_block"))
        return [] if block.get("type") in _MESSAGE_TEXTS and not (block.get("text") or "") else None
    if kind != "content_block_delta":
        return []
    delta = _object(document.get("delta"))
    for name in _MESSAGE_TEXTS:
        if delta.get("type") == f"{name}_delta" and isinstance(delta.get(name), str):
            return [((document.get("index", 0), name), delta[name])]
    return [] if delta.get("type") == "signature_delta" else None  # signs thoughts that are the same


def _object(value: Any) -> Mapping[str, Any]:
    """A member that should be an object, or an empty one: what a backend sends may be anything."""
    return value if isinstance(value, dict) else {}


def _response_texts(document: Mapping[str, Any], kind: str) -> list[tuple[Slot, str]] | None:
    part = _RESPONSE_TEXTS.get(kind)
    if part is not None:
        delta = document.get("delta")
        if not isinstance(delta, str) or document.get("logprobs"):
            return None
        return [((document.get("output_index", 0), f"{kind} {document.get(part, 0)}"), delta)]
    if kind in _RESPONSE_ITEMS:
        return [] if _object(document.get("item")).get("type") in _TEXT_ITEMS else None
    return [] if kind in _RESPONSE_FRAMES else None


@dataclass(slots=True)
class ResponseNames:
    """What a client knows a stream of /v1/responses by, so that the same answer made again elsewhere goes by it too.

    `response` holds the id and time of the whole, `items` the ids of output items by their index, `sequence` the number
    of the last event.
    """

    response: dict[str, Any] = field(default_factory=dict)
    items: dict[int, str] = field(default_factory=dict)
    sequence: int = -1

    def note(self, document: Mapping[str, Any]) -> None:
        """Takes note of an event that goes out."""
        number, response, item = (document.get(name) for name in ("sequence_number", "response", "item"))
        if isinstance(number, int):
            self.sequence = number
        if isinstance(response, dict) and not self.response:
            self.response = {name: response[name] for name in ("id", "created_at") if name in response}
        index = document.get("output_index", 0)
        if isinstance(item, dict) and isinstance(item.get("id"), str) and isinstance(index, int):
            self.items.setdefault(index, item["id"])

    def renamed(self, document: dict[str, Any]) -> dict[str, Any]:
        """An event of the same answer from elsewhere, as the next one of this stream."""
        index = document.get("output_index")
        item_id = self.items.get(index) if isinstance(index, int) else None
        changed = dict(document)
        if "sequence_number" in document:
            changed["sequence_number"] = self.sequence + 1
        if item_id is not None and "item_id" in document:
            changed["item_id"] = item_id
        if item_id is not None and isinstance(document.get("item"), dict):
            changed["item"] = document["item"] | {"id": item_id}
        if isinstance(response := document.get("response"), dict):
            changed["response"] = response | self.response | {"output": self._items(response.get("output"))}
        self.note(changed)
        return changed

    def _items(self, output: Any) -> Any:
        if not isinstance(output, list):
            return output
        named = enumerate(output)
        return [
            item | {"id": self.items[n]} if n in self.items and isinstance(item, dict) else item for n, item in named
        ]
