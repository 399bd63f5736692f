"""What a client has of an answer whose stream broke, read from the frames that went out to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from backends.continuation import CHAT
from gateway.relay.events import Mark, ResponseNames, Slot, mark_of, typed_texts
from gateway.relay.journal import Journal
from gateway.relay.sse import document_of

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
    `textual`: nothing but text has been sent. `tracked`: every text came with its ids. `marks` are the events after the
    last text, in a stream that names their types (`typed`); `names` is what a stream of responses goes by.
    `told_usage`: the frame that only tells usage has been sent. `aligned`: see `backends.dialect.TokenIds`.
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
    typed: bool = False
    marks: list[Mark] = field(default_factory=list)
    names: ResponseNames = field(default_factory=ResponseNames)
    told_usage: bool = False

    @classmethod
    def of(cls, journal: Journal, path: str) -> Delivered:
        """Reads a journal."""
        delivered = cls(path)
        parts: dict[Slot, list[str]] = {}
        for frame in journal.frames():
            if (document := document_of(frame)) is not None:
                delivered.names.note(document)
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
        found = texts_of(document)
        if "type" in document and document["type"] != "ping":
            self.typed = True
            self.marks = [] if found else [*self.marks, mark_of(document)]
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
    """The texts in one event of a stream; None if it holds anything else of the answer."""
    kind = document.get("type")
    if kind is not None:
        return typed_texts(document, str(kind))
    found: list[tuple[Slot, str]] = []
    choices = document.get("choices") or []
    if not (isinstance(choices, list) and all(map(_is_choice, choices))):
        return None
    for choice in choices:
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


def _is_choice(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("index", 0), int)


def ids_in(value: Any) -> list[int]:
    """Token ids where they should be; none where there is anything else."""
    return value if isinstance(value, list) and all(isinstance(each, int) for each in value) else []


def _ids_of(document: dict[str, Any]) -> tuple[list[int], list[int]]:
    """(token ids, prompt's token ids) of a frame that has text."""
    ids: list[int] = []
    prompt = ids_in(document.get("prompt_token_ids"))
    for choice in document.get("choices") or ():
        ids += ids_in(choice.get("token_ids"))
        prompt = ids_in(choice.get("prompt_token_ids")) or prompt
    return ids, prompt
