"""Server-sent events as bytes: where frames end, and what each API's stream looks like at its start and end.

Nothing here parses JSON per frame on the happy path: a frame is looked into only while nothing has reached the client
yet, when it holds the bytes `"error"` or `"abort"`, or when the stream ends.

What is asked of every frame is asked with `find`: for bytes `in` takes them for a number first, and the exception that
this comes to, made and dropped, costs more than the search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

#: A frame longer than this is not a model's output; its stream counts as broken.
MAX_FRAME = 1024 * 1024
#: Where a frame holds one of these, its server may have given the answer up: it is looked into. vLLM's `finish_reason`
#: of answers that it breaks off, such as when it is put to sleep, is `abort`.
GIVEN_UP, ABORTED = b'"error"', b'"abort"'
_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")
_LONGEST_END = max(map(len, _ENDS))
_CARRIAGE_RETURN = 0x0D  # ends a line, too


class FrameTooLargeError(Exception):
    """A frame without an end within `MAX_FRAME` bytes."""


class FrameScanner:
    """Cuts a byte stream so that only whole frames come out. Holds at most `MAX_FRAME` bytes."""

    __slots__ = ("rest",)

    def __init__(self) -> None:
        self.rest = bytearray()
        """Bytes of a frame whose end has not come."""

    def feed(self, data: bytes) -> bytes:
        """Takes bytes as they came, returns those up to the last frame end (possibly none, possibly many frames).

        Raises FrameTooLargeError.
        """
        rest = self.rest
        if rest:
            # Only where new bytes are can there be a new end: a frame in small pieces must not be searched for each.
            new = max(0, len(rest) - _LONGEST_END + 1)
            rest += data
            if not any(rest.find(end, new) >= 0 for end in _ENDS):
                if len(rest) > MAX_FRAME:
                    raise FrameTooLargeError
                return b""
            data = bytes(rest)
            rest.clear()
        if data.endswith(b"\n\n"):
            return data
        cut = max(data.rfind(end) + len(end) if end in data else 0 for end in _ENDS)
        if len(data) - cut > MAX_FRAME:
            raise FrameTooLargeError
        rest += data[cut:]
        return data[:cut]


def split(frames: bytes) -> Iterator[bytes]:
    """Single frames, each with its end, of bytes that `FrameScanner.feed` returned."""
    if b"\r" in frames:
        frames = frames.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    start = 0
    while (end := frames.find(b"\n\n", start)) >= 0:
        yield frames[start : end + 2]
        start = end + 2


def data_of(frame: bytes) -> bytes:
    """The data of one frame: its `data:` lines joined with line feeds (WHATWG HTML, server-sent events)."""
    if frame.startswith(b"data: ") and frame.count(b"\n") == 2:
        return frame[6:-2]
    lines = [line[5:].removeprefix(b" ") for line in frame.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)


def plausible(data: bytes) -> bool:
    """Whether bytes are whole events, each of one line that looks like a JSON object; judged by ends, not parsed."""
    # Slices, as `startswith` and `endswith` take their arguments apart first: this is asked of every frame.
    if data[:7] != b"data: {" or data[-3:] != b"}\n\n" or _CARRIAGE_RETURN in data:
        return False
    if data.find(b"\n") == len(data) - 2:
        return True  # one event
    return data.count(b"\n") == 2 * data.count(b"}\n\ndata: {") + 2


def is_malformed(frame: bytes) -> bool:
    """Whether a frame has data that is neither a JSON value nor the end of an OpenAI stream; comments have none."""
    data = data_of(frame)
    if not data or data.strip() == b"[DONE]":
        return False
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return True
    return False


def document_of(frame: bytes) -> dict[str, Any] | None:
    """The JSON object in a frame's data, or None when there is none."""
    try:
        document = orjson.loads(data_of(frame))
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


@dataclass(frozen=True, slots=True)
class StreamShape:
    """How one API's event stream says that content begins and that it is complete.

    `has_content` looks at a frame's JSON; `finished` likewise tells the frame after which only bookkeeping follows.
    `terminal` are bytes that only the last frame holds, whatever the model's text is; `repair` is sent to complete a
    stream that was finished but whose terminal frame never came. `finished_by` are bytes of which a frame that finishes
    holds one; None where that is the terminal one. `closes`: whether a JSON object is that of the terminal one; None
    where that holds none.
    """

    terminal: tuple[bytes, ...]
    repair: bytes
    has_content: Callable[[dict[str, Any]], bool]
    finished: Callable[[dict[str, Any]], bool]
    finished_by: tuple[bytes, ...] | None = None
    closes: Callable[[dict[str, Any]], bool] | None = None

    def ends(self, frames: bytes) -> bool:
        """Whether the last frame is among these."""
        # Asked for every frame of some streams, where any() would cost three times as much.
        for terminal in self.terminal:
            if frames.find(terminal) >= 0:
                return self.closes is None or self._closed(frames, self.closes)
        return False

    @staticmethod
    def _closed(frames: bytes, closes: Callable[[dict[str, Any]], bool]) -> bool:
        """A closer look, as an event may hold the client's own words as JSON, such as the metadata of its request."""
        documents = map(document_of, split(frames))
        return any(document is not None and closes(document) for document in documents)


def _choices(document: dict[str, Any]) -> list[dict[str, Any]]:
    choices = document.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _chat_content(document: dict[str, Any]) -> bool:
    for choice in _choices(document):
        if choice.get("finish_reason") or choice.get("text"):
            return True
        delta = choice.get("delta")
        if isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role"):
            return True
    return False


def _chat_finished(document: dict[str, Any]) -> bool:
    return any(choice.get("finish_reason") for choice in _choices(document))


def _stopped(delta: object) -> bool:
    return isinstance(delta, dict) and delta.get("stop_reason") is not None


def _members(*types: str) -> tuple[bytes, ...]:
    """How `type` says these values, with and without a space; in the model's text the quotes would be escaped."""
    return tuple(b'"type":%b"%b"' % (space, name.encode()) for name in types for space in (b"", b" "))


def _strings(name: str) -> tuple[bytes, ...]:
    """How a member of that name begins that holds a string."""
    return tuple(b'"%b":%b"' % (name.encode(), space) for space in (b"", b" "))


def _typed(*types: str) -> Callable[[dict[str, Any]], bool]:
    return lambda document: document.get("type") in types


_DONE = b"data: [DONE]\n\n"
#: With the line's end: a model may well write `data: [DONE]`, but in JSON a line feed is written `\\n`.
_ENDINGS = tuple(b"data:%b[DONE]%b" % (space, end) for space in (b" ", b"") for end in (b"\n", b"\r"))
OPENAI = StreamShape(_ENDINGS, _DONE, _chat_content, _chat_finished, _strings("finish_reason"))
ANTHROPIC = StreamShape(
    _members("message_stop"),
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    lambda document: document.get("type") not in ("message_start", "ping", "content_block_start"),
    lambda document: document.get("type") == "message_delta" and _stopped(document.get("delta")),
    _strings("stop_reason"),
    closes=_typed("message_stop"),
)
#: Events of a Responses stream that come before anything of the answer.
_BEFORE_TEXT = frozenset(
    {
        *("response.created", "response.queued", "response.in_progress", "response.output_item.added"),
        *("response.content_part.added", "response.reasoning_part.added", "response.reasoning_summary_part.added"),
    }
)
RESPONSES = StreamShape(
    _members("response.completed", "response.incomplete", "response.failed"),
    b"",
    lambda document: document.get("type") not in _BEFORE_TEXT,
    _typed("response.completed", "response.incomplete"),
    closes=_typed("response.completed", "response.incomplete", "response.failed"),
)
#: A stream of which we know nothing: any frame is content and a clean end is its end.
OPAQUE = StreamShape((), b"", lambda document: True, lambda document: True)

_BY_PATH = {
    "/v1/chat/completions": OPENAI,
    "/v1/completions": OPENAI,
    "/v1/messages": ANTHROPIC,
    "/v1/responses": RESPONSES,
}


def shape_for(path: str) -> StreamShape:
    """The stream shape of an API path."""
    return _BY_PATH.get(path, OPAQUE)
