"""One client connection: parses requests, hands them to the application, writes answers with flow control."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

import httptools

from gateway.http.message import Request, status_line
from policies.outcome import ErrorKind

if TYPE_CHECKING:
    from gateway.http.server import Server

#: Requests that a client may send ahead on one connection before we stop reading it.
MAX_PIPELINED = 8
#: Fields that must not be repeated: two values would mean two readings of one request.
_SINGLE = frozenset({b"host", b"content-length", b"transfer-encoding", b"authorization", b"content-type", b"expect"})
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


class ClientConnection(asyncio.Protocol):
    """Server side of one HTTP/1.1 connection; one request is answered at a time, in order.

    The application answers through `send`, or `start`, `write` and `end`. A client that leaves cancels the task that
    works on its request. `deadline` (loop time) is when the server may close the connection for its client's silence.
    `cut_off` says that the task was cancelled because the server stops, with the client still there.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = server.loop
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made
        self._parser = httptools.HttpRequestParser(self)
        self._peer = ""
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._request: Request | None = None
        self._chunks: list[bytes] = []
        self._body_size = 0
        self._head_size = 0  # of the head being parsed, as parsed
        self._unparsed_head = 0  # bytes that came for a head that is not complete
        self._reading_head = True
        self._refused = False
        self._pending: deque[Request] = deque()
        self._active: Request | None = None
        self._task: asyncio.Task[None] | None = None
        self._chunked = False
        self._head_sent = False
        self._closing = False
        self._told_to_close = False  # an answer's head carried `connection: close`
        self.cut_off = False
        self._on_pause: Callable[[], None] | None = None
        self._on_resume: Callable[[], None] | None = None
        self.write_paused = False
        self.disconnected = False
        self.bytes_out = 0
        self.deadline = 0.0

    # -- reading -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else "unix"
        self.deadline = monotonic() + self._server.limits.header_timeout
        if not self._server.opened(self):
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._reading_head:
            self._unparsed_head += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(ErrorKind.INVALID_INPUT, "Protocol upgrades are not supported. Send a plain HTTP/1.1 request.")
        except httptools.HttpParserError:
            if self._head_size > self._server.limits.max_header_size:
                self._refuse_headers_too_large()
            else:
                self._refuse(ErrorKind.INVALID_INPUT, "The request is not valid HTTP/1.1. Check the client or proxy.")
        else:
            if self._reading_head and self._unparsed_head > self._server.limits.max_header_size:
                self._refuse_headers_too_large()

    def on_message_begin(self) -> None:
        self._headers = {}
        self._target = b""
        self._chunks = []
        self._body_size = self._head_size = 0
        self._reading_head = True
        if self._active is None:
            self.deadline = monotonic() + self._server.limits.header_timeout

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._count_head(len(url))

    def _count_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self._server.limits.max_header_size:
            raise ValueError("head too large")  # the parser turns it into an HttpParserCallbackError

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        headers = self._headers
        self._count_head(len(name) + len(value) + 4)
        if name in headers:
            if name in _SINGLE:
                raise ValueError("repeated header")
            value = headers[name] + b", " + value
        headers[name] = value

    def on_headers_complete(self) -> None:
        limits = self._server.limits
        now = monotonic()
        self._reading_head = False
        self._unparsed_head = 0
        request = Request(self._parser.get_method().decode("latin-1"), self._target, self._headers, self._peer)
        request.received_at = now
        request.keep_alive = self._parser.should_keep_alive()
        self._request = request
        self.deadline = now + limits.body_timeout
        if len(self._headers) > limits.max_headers:
            self._refuse_headers_too_large()
        elif request.method not in _METHODS:
            self._refuse(ErrorKind.INVALID_INPUT, f"The method {request.method[:20]} is not supported.")
        elif any(b"\n" in value or b"\r" in value or b"\0" in value for value in self._headers.values()):
            self._refuse(ErrorKind.INVALID_INPUT, "A header value holds a line break. Send each header on one line.")
        else:
            length = self._headers.get(b"content-length")
            if length is not None and int(length) > limits.max_body:
                self._refuse_body_too_large()
            elif self._headers.get(b"expect", b"").lower() == b"100-continue" and self._active is None:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if self._refused:
            return
        size = len(body)
        self._body_size += size
        if self._body_size > self._server.limits.max_body:
            self._refuse_body_too_large()
            return
        if not self._server.reserve(size):
            self._body_size -= size
            self._refuse(
                ErrorKind.MODEL_OVERLOADED,
                "The gateway holds as many request bodies as it may. Try again shortly.",
            )
            return
        self._chunks.append(body)
        self.deadline = monotonic() + self._server.limits.body_timeout

    def on_message_complete(self) -> None:
        request = self._request
        if self._refused or request is None:
            return
        chunks = self._chunks
        request.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        self._request = None
        self._reading_head = True
        if self._active is None:
            self._begin(request)
        else:
            self._pending.append(request)
            if len(self._pending) >= MAX_PIPELINED:
                self._transport.pause_reading()

    # -- one request at a time -----------------------------------------------------------------------------------

    def _begin(self, request: Request) -> None:
        self._active = request
        self._head_sent = False
        self.bytes_out = 0
        self.deadline = float("inf")
        if self._server.take_over(self, request):
            return
        self._task = self._loop.create_task(self._server.handler(request, self))

    def release(self) -> tuple[asyncio.Transport, Request]:
        """Gives the transport up to another protocol (the operations' server): this object is done with it."""
        request = self._active
        assert request is not None
        self._server.unreserve(len(request.body))
        self._server.closed(self)
        self._refused = True
        return self._transport, request

    def _finish(self) -> None:
        """The answer is out: closes, or goes on to the next request."""
        request = self._active
        if request is None:
            return
        self._active = None
        self._task = None
        self._on_pause = self._on_resume = None
        self._server.unreserve(len(request.body))
        if not request.keep_alive or self._told_to_close or self._refused:
            self._transport.close()
            return
        # A client that was not told to close may have its next request on the way already.
        self.deadline = monotonic() + self._server.idle_timeout
        if self._pending:
            following = self._pending.popleft()
            if len(self._pending) == MAX_PIPELINED - 1:
                self._transport.resume_reading()
            self._begin(following)

    # -- writing -------------------------------------------------------------------------------------------------

    def send(self, status: int, headers: bytes, body: bytes) -> None:
        """Writes a whole answer. `headers` are complete lines each with its end, without Content-Length."""
        if self.disconnected or self._active is None:
            return
        self._head_sent = True
        self.bytes_out = len(body)
        sent = b"" if self._active.method == "HEAD" else body
        self._transport.write(
            b"%b%b%bcontent-length: %d\r\n\r\n%b"
            % (status_line(status), headers, self._connection_header(), len(body), sent)
        )
        self._finish()

    def start(
        self,
        status: int,
        headers: bytes,
        on_pause: Callable[[], None] | None = None,
        on_resume: Callable[[], None] | None = None,
    ) -> None:
        """Writes a head whose body follows with `write` and `end`. The callbacks tell when to stop and go on."""
        if self.disconnected or self._active is None:
            return
        self._head_sent = True
        self._on_pause, self._on_resume = on_pause, on_resume
        self._chunked = True
        self._transport.write(
            b"%b%b%btransfer-encoding: chunked\r\n\r\n" % (status_line(status), headers, self._connection_header())
        )

    def flow(self, on_pause: Callable[[], None], on_resume: Callable[[], None]) -> None:
        """Has another source of the body told when to stop and go on; at once, if it has to stop."""
        self._on_pause, self._on_resume = on_pause, on_resume
        if self.write_paused:
            on_pause()

    def write(self, data: bytes) -> None:
        """Writes a piece of the body; empty data is ignored."""
        if data and not self.disconnected:
            self.bytes_out += len(data)
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self, last: bytes = b"", *, close: bool = False) -> None:
        """Writes the last piece and the end of the body; with `close`, closes the connection after it."""
        if self.disconnected:
            return
        self.write(last)
        self._transport.write(b"0\r\n\r\n")
        if close:
            self._told_to_close = True
        self._finish()

    def abort(self) -> None:
        """Closes at once, so that the client sees a broken answer and never takes it for a whole one."""
        if not self.disconnected:
            self._transport.abort()

    def drain(self, deadline: float) -> None:
        """Has the next answer ask its client to close; an idle connection is closed at `deadline` (loop time)."""
        self._closing = True
        if self.idle:
            self.deadline = min(self.deadline, deadline)

    def cut(self) -> None:
        """Stops the work on a request; its handler says so to the client."""
        if self._task is None or self._task.done():
            self._transport.close()
        elif not self.cut_off:
            self.cut_off = True
            self._task.cancel()

    @property
    def idle(self) -> bool:
        """Whether no request runs and none has begun to arrive."""
        return self._active is None and self._request is None and self._unparsed_head == 0

    @property
    def busy(self) -> bool:
        return self._active is not None

    @property
    def head_sent(self) -> bool:
        """Whether the answer has begun, so that its status can no longer change."""
        return self._head_sent

    def expire(self) -> None:
        """The server's sweep found `deadline` passed: a slow or silent client."""
        self.deadline = float("inf")
        if self._request is not None or (self._reading_head and self._unparsed_head):
            self._refuse(ErrorKind.INVALID_INPUT, "The request did not arrive in time. Send it faster.", status=408)
        else:
            self._transport.close()

    def _connection_header(self) -> bytes:
        assert self._active is not None
        if self._active.keep_alive and not self._closing:
            return b""
        self._told_to_close = True
        return b"connection: close\r\n"

    # -- refusals and flow control -------------------------------------------------------------------------------

    def _refuse_headers_too_large(self) -> None:
        self._refuse(
            ErrorKind.INVALID_INPUT,
            "The request's headers are too large. Send fewer or shorter headers.",
            status=431,
        )

    def _refuse_body_too_large(self) -> None:
        limit = self._server.limits.max_body
        self._refuse(
            ErrorKind.PAYLOAD_TOO_LARGE,
            f"The request body is larger than {limit} bytes. Send a smaller one, or raise server.max_body.",
        )

    def _refuse(self, kind: ErrorKind, message: str, status: int | None = None) -> None:
        """Answers an unusable request with a contract error and closes: what follows it cannot be trusted."""
        if self._refused:
            return
        self._refused = True
        self._closing = True
        self._server.unreserve(self._body_size)
        self._chunks = []
        self._body_size = 0
        if self._active is not None:
            return  # a broken request behind one that is being answered: that one goes out, then we close
        request = self._request or Request("GET", self._target, self._headers, self._peer)
        request.keep_alive = False
        self._request = None
        self._active = request
        self._server.refuser(request, self, kind, message, status)

    def pause_writing(self) -> None:
        self.write_paused = True
        if self._on_pause is not None:
            self._on_pause()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._on_resume is not None:
            self._on_resume()

    def eof_received(self) -> bool:
        # A client that closes looks the same as one that only stops sending. Taking it for gone frees the GPU at once.
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.disconnected = True
        self._server.closed(self)
        if self._request is not None and not self._refused:
            self._server.unreserve(self._body_size)
        if self._active is not None:
            self._pending.append(self._active)
            self._active = None
        for request in self._pending:
            self._server.unreserve(len(request.body))
        self._pending.clear()
        if self._task is not None and not self._task.done():
            self._task.cancel()
