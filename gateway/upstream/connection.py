"""One HTTP/1.1 connection to a backend. It trusts nothing: head size, framing and early ends are all judged."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import httptools

from gateway.http.message import write_whole
from gateway.http.repeated import MOST_UNLIKE, repeated

if TYPE_CHECKING:
    from gateway.upstream.pool import Pool

#: A backend's head may be at most this long, in bytes.
MAX_HEAD = 64 * 1024
#: Of so many heads unlike the one before, in a row, only the first `MOST_UNLIKE` are remembered: a backend may write
#: something new into each of them, or just the time.
_UNLIKE_ROUND = 64
_RAW_TYPES = (b"audio/", b"image/", b"video/", b"application/octet-stream", b"application/x-ndjson")


class Break(Enum):
    """Why an exchange ended before its answer did."""

    CONNECT = "connect"  # no connection could be made
    LOST = "lost"  # closed or reset under way
    STALE = "stale"  # a kept-alive connection that its server had already given up: nothing was processed
    GARBAGE = "garbage"  # not HTTP, or a head beyond all bounds


class UpstreamHead:
    """The head of a backend's answer. Answers that repeat its bytes share it: it is only read.

    `headers` has lower-case names, in order, and values as they came, without Content-Length: that is the connection's
    to heed. `delimited`: the body has an end other than that of the connection. `is_raw`: nobody can judge the body by
    what it says. `text` is the head as dialects look at it. `passed_on` is what the client gets of the headers, None as
    long as nobody has asked.
    """

    __slots__ = (
        "connection",
        "content_type",
        "delimited",
        "encoded",
        "headers",
        "is_event_stream",
        "is_raw",
        "passed_on",
        "status",
        "text",
    )

    def __init__(self, status: int, lines: Sequence[tuple[bytes, bytes]]) -> None:
        """Raises ValueError for framing that nobody asked for."""
        self.status = status
        self.headers: list[tuple[bytes, bytes]] = []
        self.connection = b""
        self.content_type = b""
        self.delimited = False
        self.encoded = False
        self.passed_on: bytes | None = None
        for name, value in lines:
            name = name.lower()
            if name == b"content-length":
                self.delimited = True
                continue
            self.headers.append((name, value))
            if name == b"content-type":
                self.content_type = value.strip().lower()
            elif name == b"transfer-encoding":
                self.delimited = True
                if value.strip().lower() != b"chunked":
                    raise ValueError("a transfer coding that nobody asked for")
            elif name == b"connection":
                self.connection = value
            elif name == b"content-encoding":
                self.encoded = value.strip().lower() != b"identity"
        self.is_event_stream = self.content_type.startswith(b"text/event-stream")
        self.is_raw = self.content_type.startswith(_RAW_TYPES)
        self.text = TextHead(status, _media_type(self.content_type), self.headers)


class TextHead:
    """An `UpstreamHead` as dialects look at it (`AnswerHead`); its headers are made into text only for one who asks."""

    __slots__ = ("_headers", "content_type", "status")

    def __init__(self, status: int, media_type: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self._headers = headers
        self.status = status
        self.content_type = media_type

    @property
    def headers(self) -> Mapping[str, str]:
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self._headers}


@lru_cache(maxsize=64)
def _media_type(content_type: bytes) -> str:
    return content_type.decode("latin-1").partition(";")[0].strip()


class Sink(Protocol):
    """Receives one exchange. After `on_end` or `on_broken` nothing more comes."""

    def on_head(self, head: UpstreamHead) -> None: ...

    def on_data(self, data: bytes) -> None: ...

    def on_end(self) -> None: ...

    def on_broken(self, reason: Break, detail: str) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """Client side of one connection to an endpoint; carries one exchange at a time and returns itself to its pool."""

    __slots__ = (
        "_complete",
        "_head",
        "_head_in",
        "_head_size",
        "_keep_alive",
        "_lines",
        "_loop",
        "_parser",
        "_parts",
        "_pool",
        "_received",
        "_to_come",
        "_transport",
        "idle_since",
        "reused",
        "sink",
    )

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._loop = pool.loop
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made
        self._parser: Any = httptools.HttpResponseParser(self)
        self.sink: Sink | None = None
        self._head: UpstreamHead | None = None
        self._lines: list[tuple[bytes, bytes]] = []  # of the head, as they came
        self._head_in = b""  # what was read first, which a head that may come again begins
        self._head_size = 0
        self._to_come: int | None = None  # bytes of a body whose head was recognised: the parser sees neither
        self._parts: list[bytes] = []
        self._complete = False
        self._keep_alive = False
        self._received = False
        self.reused = False
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def send(self, sink: Sink, data: bytes, body: bytes) -> None:
        """Sends one request (`data` is its whole head) and delivers the answer to `sink`."""
        self.sink = sink
        self._head = self._to_come = None
        self._head_size = 0
        self._received = self._complete = False
        write_whole(self._transport, data, body)

    def abort(self) -> None:
        """Drops the connection at once, so that the backend stops working on the request."""
        self.sink = None
        self._transport.abort()

    def break_off(self, reason: str) -> None:
        """Drops the connection; an exchange on it ends as one whose connection was lost."""
        self._broken(Break.LOST, reason)

    @property
    def usable(self) -> bool:
        """Whether a request can be sent on it."""
        return not self._transport.is_closing()

    def pause(self) -> None:
        """Stops reading: the client is slower than the backend."""
        if not self._complete:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Reads on."""
        if not self._complete:
            self._transport.resume_reading()

    # -- parser callbacks and transport events ----------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        sink = self.sink
        if sink is None:
            self._transport.abort()  # bytes that nobody asked for: an answer to come would be out of step
            return
        if not self._received:
            self._received = True
            if (known := self._pool.repeated) is not None and (found := known.find(data)) is not None:
                self._to_come, size = found
                self._begin_repeated(sink, known.head)
                data = data[size:]
            else:
                self._head_in = data
        if self._to_come is None:
            self._feed(sink, data)
        else:
            self._take_body(sink, data, self._to_come)

    def _begin_repeated(self, sink: Sink, head: UpstreamHead) -> None:
        """An answer whose head was parsed and judged before; only its body's length is its own."""
        self._pool.unlike = 0
        self._head = head
        self._keep_alive = True
        sink.on_head(head)

    def _take_body(self, sink: Sink, data: bytes, to_come: int) -> None:
        size = len(data)
        self._complete = size >= to_come
        if size > to_come:
            self._to_come = 0
            if to_come:
                sink.on_data(data[:to_come])
            self._feed(sink, data[to_come:])  # for the parser to say what is behind the answer
            return
        self._to_come = to_come - size
        if data:
            sink.on_data(data)
        if self._complete:
            self._end()

    def _feed(self, sink: Sink, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self._complete:
                self._broken(Break.GARBAGE, f"not valid HTTP: {error}"[:200])
                return
            self._keep_alive = False  # a whole answer with something behind it: use the answer, not the connection
        if self._head is None:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD:
                self._broken(Break.GARBAGE, "the head of the answer is too large")
            return
        parts = self._parts
        if parts:
            self._parts = []
            self._head_size = 0
            sink.on_data(parts[0] if len(parts) == 1 else b"".join(parts))
        elif not self._complete:  # chunk extensions or trailers, and nothing but them
            self._head_size += len(data)
            if self._head_size > MAX_HEAD:
                self._broken(Break.GARBAGE, "chunked framing without end")
                return
        if self._complete:
            self._end()

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("an answer to no request")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value)
        if self._head_size > MAX_HEAD:
            raise ValueError("the head of the answer is too large")
        if self._head is None:  # else a trailer: what comes behind the body must not change the head
            self._lines.append((name, value))

    def on_headers_complete(self) -> None:
        lines, self._lines = self._lines, []
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            return
        self._head = head = UpstreamHead(status, lines)
        self._keep_alive = self._parser.should_keep_alive()
        if self._head_in:
            self._remember(head, lines)
        if self.sink is not None:
            self.sink.on_head(head)

    def _remember(self, head: UpstreamHead, lines: list[tuple[bytes, bytes]]) -> None:
        """Keeps a head that came whole and first, in case that this backend repeats it."""
        data, self._head_in = self._head_in, b""
        pool = self._pool
        if head.status != 200 or not self._keep_alive:
            return
        pool.unlike += 1
        if pool.unlike % _UNLIKE_ROUND <= MOST_UNLIKE:
            pool.repeated = repeated(head, data[: data.find(b"\n") + 1], lines, data)

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        # An informational answer has left no head, and the real one follows. The size of its own stays counted: there
        # could be any number of them.
        self._complete = self._head is not None

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.lost(self)
        self._parser = None  # the ring of connection and parser would wait for the collector
        sink = self.sink
        if sink is None or self._complete:
            return
        head = self._head
        if head is not None and exc is None and not head.delimited:
            # HTTP/1.0 style: the end of the connection is the end of the body.
            self._keep_alive = False
            self._complete = True
            self._end()
            return
        detail = str(exc) if exc else "closed by the backend"
        stale = self.reused and not self._received
        self._broken(Break.STALE if stale else Break.LOST, detail)

    def _broken(self, reason: Break, detail: str) -> None:
        sink = self.sink
        parts, self._parts = self._parts, []
        self.abort()
        if sink is not None:
            if parts and self._head is not None:
                sink.on_data(b"".join(parts))  # what did arrive belongs to the client
            sink.on_broken(reason, detail)

    def _end(self) -> None:
        sink = self.sink
        self.sink = None
        if self._keep_alive and not self._transport.is_closing():
            self._pool.give_back(self)
        else:
            self._transport.close()
        if sink is not None:
            sink.on_end()
