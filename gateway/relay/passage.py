"""What happens to a stream's frames between backend and client: nothing much, or translation of a continued answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import orjson

from gateway.relay.delivered import NO_WISHES, Delivered, Wishes, ids_in, texts_of
from gateway.relay.events import Mark, Slot, mark_of, with_text
from gateway.relay.journal import Journal
from gateway.relay.sse import StreamShape, data_of, document_of, split
from gateway.relay.stops import AmbiguousStopError, StopStrings
from gateway.relay.token_ids import without_ids


class DivergedError(Exception):
    """The answer went on in a way that is not, or may not be, that of the answer which the client has begun."""


class Passage(Protocol):
    """`complete` turns true when the answer is whole although the backend would go on.

    With `untouched`, frames go to the client as they come and nobody has to be asked for each.
    """

    complete: bool
    untouched: bool

    def feed(self, frames: bytes) -> bytes:
        """What of whole frames goes to the client. Raises DivergedError."""

    def closing(self) -> bytes:
        """Completes an answer that is whole but for its last frames."""


class Plain:
    """The answer as it comes, noted in a journal where it may be resumed, without ids where they were our wish."""

    __slots__ = ("_path", "_repair", "_strip", "_wishes", "complete", "journal", "untouched")

    def __init__(
        self,
        shape: StreamShape,
        journal: Journal | None = None,
        *,
        strip: bool = False,
        path: str = "",
        wishes: Wishes = NO_WISHES,
    ) -> None:
        self._repair = shape.repair
        self._strip = strip
        self._path = path
        self._wishes = wishes
        self.journal = journal
        self.untouched = journal is None and not strip
        self.complete = False

    def feed(self, frames: bytes) -> bytes:
        if self.journal is not None:
            self.journal.add(frames)
        return without_ids(frames) if self._strip else frames

    def closing(self) -> bytes:
        if not self._wishes.usage or self.journal is None or self.journal.overflowed:
            return self._repair
        return _usage(Delivered.of(self.journal, self._path)) + self._repair


class Continued:
    """A completion that goes on from token ids, as further frames of the answer that the client has begun.

    `carried` is text of the ids in the prompt that has not been sent yet. With `stops` given, the backend does not
    look for stop strings and this does.
    """

    __slots__ = ("_base", "_carried", "_closed", "_counted", "_stops", "_wishes", "complete", "delivered")

    untouched = False

    def __init__(self, delivered: Delivered, wishes: Wishes, *, carried: str, stops: StopStrings | None) -> None:
        self.delivered = delivered
        self._wishes = wishes
        self._carried = carried
        self._stops = stops
        self._base = len(delivered.ids)
        self._counted: int | None = None
        self._closed = False
        self.complete = False

    def feed(self, frames: bytes) -> bytes:
        out = []
        for frame in split(frames):
            if data_of(frame).strip() == b"[DONE]":
                out.append(self.closing())
            elif not self.complete and (document := document_of(frame)) is not None:
                out.append(self._translated(document))
        return b"".join(out)

    def closing(self) -> bytes:
        if self._closed:
            return b""
        self._closed = True
        usage = self.delivered.usage_frame(self.completion_tokens) if self._wishes.usage else b""
        return usage + b"data: [DONE]\n\n"

    @property
    def tokens(self) -> int:
        """Tokens of the continuation."""
        return self.completion_tokens - self._base

    @property
    def completion_tokens(self) -> int:
        """Tokens of the whole answer so far."""
        return len(self.delivered.ids) if self._counted is None else self._base + self._counted

    def _translated(self, document: dict[str, Any]) -> bytes:
        usage = document.get("usage")
        if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int) and not document.get("choices"):
            self._counted = usage["completion_tokens"]
        if texts_of(document) is None:
            raise DivergedError("a frame of it holds something else than text")
        out = []
        for choice in document.get("choices") or ():
            ids = ids_in(choice.get("token_ids"))
            reason, stopped_by = choice.get("finish_reason"), choice.get("stop_reason")
            text, self._carried = self._carried + (choice.get("text") or ""), ""
            if self._stops is not None:
                try:
                    text, stop = self._stops.push(text, tokens=len(ids))
                except AmbiguousStopError:
                    raise DivergedError("several stop strings ended in one frame") from None
                if stop is not None:
                    if self._wishes.ids and len(ids) > 1:
                        raise DivergedError("which token of a frame ended the answer cannot be told")
                    reason, stopped_by, self.complete = "stop", stop, True
                elif reason is not None:
                    text += self._stops.rest()
            self.delivered.note(len(text), ids)
            self.delivered.add(self.delivered.slot, text)
            if text or reason is not None or (ids and self._wishes.ids):
                ending = {"finish_reason": reason, "stop_reason": stopped_by} if reason is not None else None
                out.append(self.delivered.frame(text, ids, self._wishes, ending))
            if self.complete:
                break
        return b"".join(out)


class Replayed:
    """The same answer made again elsewhere: silent until it has come to where the client is, then passed on.

    Where the client is: behind all text that it has, and behind the events that came to it after that.
    """

    __slots__ = ("_behind", "_fresh", "_marks", "_shape", "_strip", "_wishes", "complete", "delivered")

    untouched = False

    def __init__(self, delivered: Delivered, shape: StreamShape, *, strip: bool, wishes: Wishes) -> None:
        self.delivered = delivered
        self._behind: dict[Slot, str] = {slot: text for slot, text in delivered.texts.items() if text}
        self._marks: deque[Mark] = deque(delivered.marks)
        self._fresh = Delivered(delivered.path, head=delivered.head, aligned=delivered.aligned, names=delivered.names)
        self._shape = shape
        self._strip = strip
        self._wishes = wishes
        self.complete = False

    def feed(self, frames: bytes) -> bytes:
        out = []
        for frame in split(frames):
            document = document_of(frame)
            if document is not None:
                out.append(self._passed(document))
            elif self._behind and data_of(frame):
                raise DivergedError("it ended before it came to where the client is")
            else:
                out.append(frame)
        return b"".join(out)

    def closing(self) -> bytes:
        return (_usage(self._fresh) if self._wishes.usage else b"") + self._shape.repair

    def _passed(self, document: dict[str, Any]) -> bytes:
        found = self._fresh.take(document)
        for slot, text in found:
            self._fresh.add(slot, text)
        if not self._behind:
            return b"" if self._had(document) else self._written(document)
        surplus = self._matched(found)
        ends = self._shape.finished(document)
        if self._behind:
            if ends or not self._fresh.textual:
                raise DivergedError("it ended, or became something else, before it came to where the client is")
            return b""
        if surplus and self._marks:
            raise DivergedError("it has more text than the client has where that ended")
        if not self._marks:
            self.delivered = self._fresh
        return self._written(_with_texts(document, surplus)) if surplus or ends else b""

    def _had(self, document: dict[str, Any]) -> bool:
        """Whether the client has had this event: those after its last text come again in the same order."""
        if not self._marks:
            return False
        if document.get("type") == "ping":
            return True
        if mark_of(document) != self._marks.popleft():
            raise DivergedError("it goes on otherwise after the text that the client has")
        if not self._marks:
            self.delivered = self._fresh
        return True

    def _matched(self, found: Sequence[tuple[Slot, str]]) -> dict[Slot, str]:
        """Crosses off what the client has; returns what it has not."""
        surplus: dict[Slot, str] = {}
        for slot, text in found:
            due = self._behind.get(slot, "")
            if not (due.startswith(text) or text.startswith(due)):
                raise DivergedError("its text is another")
            if len(text) > len(due):
                surplus[slot] = text[len(due) :]
            if left := due[len(text) :]:
                self._behind[slot] = left
            else:
                self._behind.pop(slot, None)
        if surplus and self._behind:
            raise DivergedError("one of its parts is longer than that which the client has")
        return surplus

    def _written(self, document: dict[str, Any]) -> bytes:
        changed = document | {name: value for name, value in self.delivered.head.items() if name in document}
        if self.delivered.names.response:
            changed = self.delivered.names.renamed(changed)
        event = f"event: {document['type']}\n".encode() if "type" in document else b""
        frame = event + b"data: " + orjson.dumps(changed) + b"\n\n"
        return without_ids(frame) if self._strip else frame


def _usage(delivered: Delivered) -> bytes:
    """The frame that tells the usage, if it has not been sent and can be told from the ids."""
    known = delivered.prompt and delivered.tracked and delivered.plain and not delivered.told_usage
    return delivered.usage_frame(len(delivered.ids)) if known else b""


def _with_texts(document: dict[str, Any], texts: dict[Slot, str]) -> dict[str, Any]:
    """The event with only this text in it."""
    if "type" in document:
        ((_, name), text), *_ = texts.items()  # such an event has one
        return with_text(document, text, name)
    choices = []
    for choice in document["choices"]:
        changed, index = dict(choice), choice.get("index", 0)
        if isinstance(choice.get("delta"), dict):
            members = choice["delta"]
            changed["delta"] = {
                name: texts.get((index, name), "") if isinstance(value, str) and name != "role" else value
                for name, value in members.items()
                if name != "role"
            }
        else:
            changed["text"] = texts.get((index, "text"), "")
        choices.append(changed)
    return document | {"choices": choices}
