"""What a client has of an answer whose stream broke, read from the frames that went out to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from backends.continuation import CHAT
from gateway.relay.journal import Journal
from gateway.relay.sse import document_of

#: Where a piece of text belongs: a choice or content block, and the member that holds it.
Slot = tuple[int, str]
_TEXTS = ("content", "text", "reasoning", "reasoning_content", "thinking")
_EMPTY: tuple[Any, ...] = (None, "", [], {})


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a client asked to be told beside the text: token ids, usage at the end, usage in every frame."""

    ids: bool = False
    usage: bool = False
    continuous: bool = False


NO_WISHES = Wishes()


@dataclass(slots=True)
class Delivered:
    """`texts` by slot, `ids` those of all frames; the first `visible` of them are what the text was made of so far.

    `last_tokens` is how many the last frame with text held: with more than one, the last may have been held back.
    `textual`: nothing but text has been sent. `tracked`: every text came with its ids. `last_type` is the last event's
    type in a stream that names them. `told_usage`: the frame that only tells usage has been sent. `aligned`: see
    `backends.dialect.TokenIds`.
    """

    path: str
    head: dict[str, Any] = field(default_factory=dict)
    texts: dict[Slot, str] = field(default_factory=dict)
    prompt: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    visible: int = 0
    last_tokens: int = 0
    textual: bool = True
    tracked: bool = True
    aligned: bool = True
    last_type: str | None = None
    told_usage: bool = False

    @classmethod
    def of(cls, journal: Journal, path: str) -> Delivered:
        """Reads a journal."""
        delivered = cls(path)
        parts: dict[Slot, list[str]] = {}
        for frame in journal.frames():
            if (document := document_of(frame)) is not None:
                for slot, text in delivered.take(document):
                    parts.setdefault(slot, []).append(text)
        delivered.texts = {slot: "".join(pieces) for slot, pieces in parts.items()}
        return delivered

    @property
    def plain(self) -> bool:
        """Whether all that was sent is the text of one choice of a chat or completion."""
        return self.textual and self.texts.keys() <= {self.slot}

    @property
    def slot(self) -> Slot:
        """Where the text of a plain answer stands."""
        return (0, "content" if self.path == CHAT else "text")

    @property
    def text(self) -> str:
        """The text of a plain answer."""
        return self.texts.get(self.slot, "")

    def add(self, slot: Slot, text: str) -> None:
        """Notes text that goes out."""
        self.texts[slot] = self.texts.get(slot, "") + text

    def take(self, document: dict[str, Any]) -> list[tuple[Slot, str]]:
        """Notes one frame's ids and what it is, and returns its text, which it does not note."""
        if not self.head:
            self.head = {name: document[name] for name in ("id", "object", "created", "model") if name in document}
        if document.get("usage") and document.get("choices") == []:
            self.told_usage = True
        if document.get("type") != "ping":
            self.last_type = document.get("type")
        found = texts_of(document)
        if found is None:
            self.textual = False
            return []
        ids, prompt = _ids_of(document)
        self.prompt = prompt or self.prompt
        self.note(sum(len(text) for _, text in found), ids)
        return found

    def note(self, characters: int, ids: list[int]) -> None:
        """Notes that a frame with so much text and these ids goes out."""
        self.ids += ids
        if characters:
            self.tracked = self.tracked and bool(ids)
            self.visible, self.last_tokens = len(self.ids), len(ids)

    def frame(self, text: str, ids: list[int], wishes: Wishes, ending: dict[str, Any] | None = None) -> bytes:
        """A frame with more text in the client's shape; `ending` holds finish_reason and stop_reason at the end."""
        choice: dict[str, Any] = {"index": 0}
        choice |= {"delta": {"content": text}} if self.path == CHAT else {"text": text}
        choice |= {"logprobs": None, "finish_reason": None} | (ending or {})
        if wishes.ids:
            choice["token_ids"] = ids
        usage = {"usage": self._usage(len(self.ids))} if wishes.continuous else {}
        return b"data: " + orjson.dumps(self.head | {"choices": [choice]} | usage) + b"\n\n"

    def usage_frame(self, completion_tokens: int) -> bytes:
        """The frame before the end that a client with `include_usage` gets."""
        return b"data: " + orjson.dumps(self.head | {"choices": [], "usage": self._usage(completion_tokens)}) + b"\n\n"

    def _usage(self, completion: int) -> dict[str, int]:
        prompt = len(self.prompt)
        return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


def texts_of(document: dict[str, Any]) -> list[tuple[Slot, str]] | None:
    """The texts in one event of a chat, completion or Messages stream; None if it holds anything else of the answer."""
    kind = document.get("type")
    if kind is not None:
        return _block_texts(document, kind)
    found: list[tuple[Slot, str]] = []
    for choice in document.get("choices") or ():
        index, delta = choice.get("index", 0), choice.get("delta")
        if choice.get("logprobs"):
            return None
        members = delta if isinstance(delta, dict) else {"text": choice.get("text")}
        for name, value in members.items():
            if name in _TEXTS and isinstance(value, str):
                if value:
                    found.append(((index, name), value))
            elif name != "role" and value not in _EMPTY:
                return None
    return found


def _block_texts(document: dict[str, Any], kind: str) -> list[tuple[Slot, str]] | None:
    if kind == "content_block_start":
        block = document.get("content_block") or {}
        return [] if block.get("type") in ("text", "thinking") and not (block.get("text") or "") else None
    if kind != "content_block_delta":
        return []
    delta = document.get("delta") or {}
    for name in ("text", "thinking"):
        if delta.get("type") == f"{name}_delta" and isinstance(delta.get(name), str):
            return [((document.get("index", 0), name), delta[name])]
    return None


def _ids_of(document: dict[str, Any]) -> tuple[list[int], list[int]]:
    """(token ids, prompt's token ids) of a frame."""
    ids: list[int] = []
    prompt = document.get("prompt_token_ids") or []
    for choice in document.get("choices") or ():
        ids += choice.get("token_ids") or ()
        prompt = choice.get("prompt_token_ids") or prompt
    return ids, prompt
