"""One client connection: parses requests, hands them to the application, writes answers with flow control."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

import httptools

from gateway.alarm import Alarm
from gateway.http.job import Job
from gateway.http.message import Head, Request, status_line, write_whole
from gateway.http.repeated import MOST_UNLIKE, RepeatedHead, repeated
from gateway.http.rules import NO_ROOM, NO_WEBSOCKET, NOT_HTTP, framing_problem, is_host, origin_form, without_upgrade
from policies.outcome import ErrorKind

if TYPE_CHECKING:
    from gateway.http.server import Server

#: Requests that a client may send ahead on one connection before we stop reading it.
MAX_PIPELINED = 8
#: Bytes that are parsed at a time where requests may be in them. What comes in one read may hold thousands, and they
#: must not keep the other connections waiting.
_PIECE = 4096
#: Bytes a second that a body must bring on the average, once `body_timeout` has passed.
MIN_BODY_RATE = 500.0
#: Bytes of a body that are taken in before it is looked whether its request has a key: what is larger would let anyone
#: fill the room that all bodies share.
STRANGERS_BODY = 64 * 1024
#: How chunks shorter than `_SHORT` bytes begin: frames of a stream, most of them.
_SHORT = 1024
_CHUNK_STARTS = tuple(b"%x\r\n" % size for size in range(_SHORT))
#: Fields that must not be repeated: two values would mean two readings of one request.
_SINGLE = frozenset({b"host", b"content-length", b"transfer-encoding", b"authorization", b"content-type", b"expect"})
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


class ClientConnection(asyncio.Protocol):
    """Server side of one HTTP/1.1 connection; one request is answered at a time, in order.

    The application answers through `send`, or `start`, `write` and `end`. A client that leaves cancels the job that
    works on its request. `deadline` (loop time) is when the server may close the connection for its client's silence.
    `alarm` is for the waits of the request that is being answered.
    `cut_off` says that the job was cancelled because the server stops, with the client still there.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = server.loop
        self._max_header_size = server.limits.max_header_size
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made
        self._parser: Any = httptools.HttpRequestParser(self)
        self._peer = ""
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._lines: list[tuple[bytes, bytes]] = []  # the same as they came
        self._head_in = b""  # what was read of a head that may come again, from its beginning
        self._between = True  # the parser has seen all of a message and nothing of the next
        self._repeated: RepeatedHead[Head] | None = None
        self._unlike = 0  # heads since one was recognised
        self._to_come = 0  # bytes of a body whose head was recognised: the parser sees neither
        self._request: Request | None = None
        self._chunks: list[bytes] = []
        self._body_size = 0
        self._length = 0  # of the body being read, where its head says it
        self._head_size = 0  # of the head being parsed, as parsed
        self._unparsed_head = 0  # bytes that came for a head that is not complete, or for framing without any body
        self._host: bytes | None = None  # the last one found valid
        self._reading_head = True
        self._refused = False
        self._pending: deque[Request] = deque()
        self._unread: memoryview | bytes = b""  # read, and not parsed yet
        self._held_back = False  # reading is paused: enough has come
        self._going_on = False
        self._active: Request | None = None
        self._job: Job | None = None
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
        self.alarm = Alarm(server.loop)

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
        if self._unread:
            self._unread = memoryview(b"".join((self._unread, data)))
        elif len(data) <= _PIECE:
            self._parse(data)
        else:
            self._unread = memoryview(data)
            self._take_in()

    def _take_in(self) -> None:
        """Parses a piece of what was read, or all of a body; for more, the other connections have their turn first."""
        while self._unread and not self._refused and len(self._pending) < MAX_PIPELINED:
            # No requests are in what the head said to be its body.
            size = _PIECE if self._reading_head else max(4 * _PIECE, self._length - self._body_size)
            piece = bytes(self._unread[:size])
            self._unread = self._unread[size:] if size < len(self._unread) else b""  # an empty view would keep it all
            self._parse(piece)
            if self._reading_head:
                break
        if len(self._pending) < MAX_PIPELINED:
            self._read_on()

    def _hold_back(self) -> None:
        if not self._held_back:
            self._held_back = True
            self._transport.pause_reading()

    def _read_on(self) -> None:
        """There is room for more requests."""
        if self._refused:
            return
        if self._unread:
            self._hold_back()
            self._loop.call_soon(self._take_in)
        elif self._held_back:
            self._held_back = False
            self._transport.resume_reading()

    def _parse(self, data: bytes) -> None:
        while data and not self._refused:
            if self._to_come:
                data = self._take_body(data)
            elif self._between and self._repeated is not None and (found := self._repeated.find(data)) is not None:
                length, size = found
                data = self._begin_repeated(self._repeated.head, length, data[size:])
            else:
                self._feed(data)
                return

    def _begin_repeated(self, head: Head, length: int, rest: bytes) -> bytes:
        """A request whose head was parsed and checked before; only its body's length is its own. `rest` is what came
        behind the head; what is still to be parsed of it."""
        now = monotonic()
        server = self._server
        limits = server.limits
        self._unlike = 0
        request = Request(head, self._peer, now)
        if length == len(rest) <= STRANGERS_BODY and length <= limits.max_body and server.reserve(length):
            request.body = rest  # the usual case: the body and nothing else
            request.held = length
            self._take_up(request)
            return b""
        self._request = request
        self.deadline = now + limits.body_timeout
        self._length = self._to_come = length
        self._reading_head = False
        if length > limits.max_body:
            self._refuse_body_too_large()
        elif not length:
            self.on_message_complete()
        return rest

    def _take_body(self, data: bytes) -> bytes:
        """Takes what belongs to the body under way; what is behind it."""
        piece = data[: self._to_come]
        self._to_come -= len(piece)
        self.on_body(piece)
        if not self._to_come:
            self.on_message_complete()
        return data[len(piece) :]

    def _feed(self, data: bytes) -> None:
        self._head_in = data if self._between and self._unlike < MOST_UNLIKE else b""
        body_size = self._body_size
        if self._reading_head:
            self._unparsed_head += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse_unparsable()
        else:
            if not self._reading_head:
                self._unparsed_head = 0 if self._body_size != body_size else self._unparsed_head + len(data)
            if self._unparsed_head > self._server.limits.max_header_size:
                self._refuse_headers_too_large()

    def _decline_upgrade(self, rest: bytes) -> None:
        """Serves a request that offers to go on in another protocol (h2c, say) as if it had not."""
        while not self._refused:
            parser = self._parser
            head = without_upgrade(parser.get_method(), self._target, parser.get_http_version(), self._headers)
            self._parser = httptools.HttpRequestParser(self)
            try:
                self._parser.feed_data(head + rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = (head + rest)[upgrade.args[0] :]
            except httptools.HttpParserError:
                self._refuse_unparsable()
            else:
                return

    def on_message_begin(self) -> None:
        self._between = False
        self._headers = {}
        self._lines = []
        self._target = b""
        self._chunks = []
        self._body_size = self._head_size = 0
        self._reading_head = True
        if self._active is None:
            self.deadline = monotonic() + self._server.limits.header_timeout

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._head_size += len(url)
        if self._head_size > self._max_header_size:
            raise ValueError("head too large")  # the parser turns it into an HttpParserCallbackError

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value) + 4
        if self._head_size > self._max_header_size:
            raise ValueError("head too large")  # the parser turns it into an HttpParserCallbackError
        if not self._reading_head:
            return  # a trailer: fields that came behind the body must not change what the head said
        if self._head_in:
            self._lines.append((name, value))
        name = name.lower()
        headers = self._headers
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
        headers, parser = self._headers, self._parser
        target = self._target if self._target[:1] == b"/" else origin_form(self._target)
        head = Head(parser.get_method().decode("latin-1"), target, headers)
        head.keep_alive = parser.should_keep_alive()
        self._request = request = Request(head, self._peer, now)
        self.deadline = now + limits.body_timeout
        version = parser.get_http_version()
        host = headers.get(b"host")
        if len(headers) > limits.max_headers:
            self._refuse_headers_too_large()
        elif request.method not in _METHODS:
            self._refuse(ErrorKind.INVALID_INPUT, f"The method {request.method[:20]} is not supported.")
        elif version != "1.1" and version != "1.0":
            self._refuse(ErrorKind.INVALID_INPUT, NOT_HTTP)
        elif (host != self._host and not self._accepts_host(host)) or (host is None and version == "1.1"):
            self._refuse(ErrorKind.INVALID_INPUT, "The Host header is missing or not valid.")
        elif target.find(b"#") >= 0:  # not `in`: see `gateway.sanitise`
            self._refuse(ErrorKind.INVALID_INPUT, "The request's target must not hold a fragment (#).")
        elif b"transfer-encoding" in headers and (problem := framing_problem(headers, version)):
            self._refuse(ErrorKind.INVALID_INPUT, problem)
        elif b"upgrade" in headers and parser.should_upgrade():
            self._request = None  # the parser stops here: see _decline_upgrade
            if b"websocket" in headers[b"upgrade"].lower():
                self._refuse(ErrorKind.INVALID_INPUT, NO_WEBSOCKET)
        else:
            head.close_delimited = version == "1.0"
            length = headers.pop(b"content-length", None)
            self._length = 0 if length is None else int(length)
            if self._length > limits.max_body:
                self._refuse_body_too_large()
            elif b"expect" in headers:
                if headers[b"expect"].lower() == b"100-continue" and self._active is None:
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            elif self._head_in:
                self._remember(head)

    def _remember(self, head: Head) -> None:
        """Keeps the head of a request that is to be answered, in case that the client repeats it."""
        self._unlike += 1
        plain = head.keep_alive and b"transfer-encoding" not in head.headers
        first = b"%b %b HTTP/1.1\r\n" % (head.method.encode("ascii"), head.target)
        self._repeated = repeated(head, first, self._lines, self._head_in) if plain else None
        self._head_in = b""

    def _accepts_host(self, host: bytes | None) -> bool:
        if host is None or not is_host(host):
            return host is None
        self._host = host
        return True

    def on_body(self, body: bytes) -> None:
        if self._refused:
            return
        before = self._body_size
        size = before + len(body)
        if size > self._server.limits.max_body:
            self._refuse_body_too_large()
            return
        if not self._server.reserve(len(body)):
            self._refuse(ErrorKind.MODEL_OVERLOADED, NO_ROOM)
            return
        self._body_size = size
        self._chunks.append(body)
        if size > STRANGERS_BODY >= before and not self._server.known(self._request):
            self._refuse(ErrorKind.AUTHENTICATION_FAILED, "")
            return
        if size != self._length and (request := self._request) is not None:  # there is more to come
            patience = self._server.limits.body_timeout
            slowest = request.received_at + patience + size / MIN_BODY_RATE
            self.deadline = min(monotonic() + patience, slowest)

    def on_message_complete(self) -> None:
        request = self._request
        if self._refused or request is None:
            return
        chunks = self._chunks
        request.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        request.held, self._body_size = self._body_size, 0  # a refusal of what follows must not give its room back
        self._request = None
        self._reading_head = self._between = True
        self._take_up(request)

    def _take_up(self, request: Request) -> None:
        """Begins with a request that is whole, or puts it behind those that are not answered yet."""
        self._unparsed_head = 0
        if self._active is None and not self.write_paused:
            self._begin(request)
        else:
            self.deadline = monotonic() + self._server.limits.body_timeout  # for the client to read its answers
            self._pending.append(request)
            if len(self._pending) >= MAX_PIPELINED:
                self._hold_back()

    # -- one request at a time -----------------------------------------------------------------------------------

    def _begin(self, request: Request) -> None:
        self._active = request
        self._head_sent = False
        self.deadline = float("inf")
        if self._server.take_over(self, request):
            return
        self._job = job = Job(self._server.handler(request, self), self._loop)
        job.start()

    def release(self) -> tuple[asyncio.Transport, Request]:
        """Gives the transport up to another protocol (the operations' server): this object is done with it."""
        request = self._active
        assert request is not None
        self._server.unreserve(request.held)
        self._forget_the_rest()
        self._server.closed(self)
        self._active = None
        self._let_go()
        if self._held_back:
            self._transport.resume_reading()
        return self._transport, request

    def _finish(self) -> None:
        """The answer is out: closes, or goes on to the next request."""
        request = self._active
        if request is None:
            return
        request.bytes_out = self.bytes_out
        self.bytes_out = 0
        self._active = None
        self._job = None
        self._on_pause = self._on_resume = None
        self._server.unreserve(request.held)
        if not request.keep_alive or self._told_to_close or self._refused:
            self._close()
            return
        # A client that was not told to close may have its next request on the way already.
        self.deadline = monotonic() + self._server.idle_timeout
        if self._pending:
            self._go_on()

    def _go_on(self) -> None:
        """Begins with the next requests, until one has to wait or the client has to read its answers first."""
        if self._going_on:
            return  # one that was answered at once: the loop below takes the next
        self._going_on = True
        try:
            while self._pending and self._active is None and not self.write_paused:
                if self._transport.is_closing():
                    break
                following = self._pending.popleft()
                if len(self._pending) == MAX_PIPELINED - 1:
                    self._loop.call_soon(self._read_on)
                self._begin(following)
        finally:
            self._going_on = False

    def hold(self, size: int) -> bool:
        """Takes so much more of the room for bodies (less, if negative) for the request that is being answered: its
        body was unpacked. False when there is none left."""
        request = self._active
        if request is None or not self._server.reserve(size):
            return False
        request.held += size
        return True

    # -- writing -------------------------------------------------------------------------------------------------

    def send(self, status: int, headers: bytes, body: bytes) -> None:
        """Writes a whole answer. `headers` are complete lines each with its end, without Content-Length."""
        if self.disconnected or self._active is None:
            return
        self._head_sent = True
        self.bytes_out = len(body)
        sent = b"" if self._active.method == "HEAD" else body
        lines = status_line(status) + headers + self._connection_header()
        no_length = status == 204  # RFC 9110, 8.6
        head = lines + b"\r\n" if no_length else b"%bcontent-length: %d\r\n\r\n" % (lines, len(body))
        write_whole(self._transport, head, sent)
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
        self.bytes_out = 0
        self._on_pause, self._on_resume = on_pause, on_resume
        self._chunked = not self._active.close_delimited
        if not self._chunked:
            self._closing = True
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self._transport.write(b"%b%b%b%b\r\n" % (status_line(status), headers, self._connection_header(), framing))

    def flow(self, on_pause: Callable[[], None], on_resume: Callable[[], None]) -> None:
        """Has another source of the body told when to stop and go on; at once, if it has to stop."""
        self._on_pause, self._on_resume = on_pause, on_resume
        if self.write_paused:
            on_pause()

    def write(self, data: bytes) -> None:
        """Writes a piece of the body; empty data is ignored."""
        if data and not self.disconnected:
            size = len(data)
            self.bytes_out += size
            if self._chunked:
                data = b"".join((_CHUNK_STARTS[size] if size < _SHORT else b"%x\r\n" % size, data, b"\r\n"))
            self._transport.write(data)

    def end(self, last: bytes = b"", *, close: bool = False) -> None:
        """Writes the last piece and the end of the body; with `close`, closes the connection after it."""
        if self.disconnected:
            return
        self.write(last)
        if self._chunked:
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

    def give_away(self, give: Callable[[int], bool]) -> None:
        """Lets go of an idle connection without closing it, if what was written on it is out and `give` takes it."""
        if self.disconnected or self._transport.get_write_buffer_size() > 0:
            return
        self._transport.pause_reading()  # from here on, what comes stays in the kernel
        if give(self._transport.get_extra_info("socket").fileno()):
            self._transport.abort()  # closes our descriptor of it only
        else:
            self._transport.resume_reading()

    def cut(self) -> None:
        """Stops the work on a request; its handler says so to the client."""
        if self._job is None or self._job.done:
            self._transport.close()
        elif not self.cut_off:
            self.cut_off = True
            self._job.cancel()

    @property
    def idle(self) -> bool:
        """Whether no request runs and none has begun to arrive."""
        return self._active is None and self._request is None and self._unparsed_head == 0 and not self._unread

    @property
    def busy(self) -> bool:
        return self._active is not None

    def serves(self, request: Request) -> bool:
        """Whether this is the request whose answer it sends now."""
        return self._active is request

    @property
    def head_sent(self) -> bool:
        """Whether the answer has begun, so that its status can no longer change."""
        return self._head_sent

    def expire(self) -> None:
        """The server's sweep found `deadline` passed: a slow or silent client."""
        self.deadline = float("inf")
        if self._transport.is_closing():
            self._transport.abort()  # it does not read the last answer
        elif self._request is not None or (self._reading_head and self._unparsed_head):
            self._refuse(ErrorKind.INVALID_INPUT, "The request did not arrive in time. Send it faster.", status=408)
        elif self._active is None:
            self._close()

    def _close(self) -> None:
        """Closes when all is written; a client that does not read it is cut off after as long as it might be idle."""
        self.deadline = monotonic() + self._server.limits.idle_timeout
        self._transport.close()

    def _connection_header(self) -> bytes:
        assert self._active is not None
        if self._active.keep_alive and not self._closing:
            return b""
        self._told_to_close = True
        return b"connection: close\r\n"

    # -- refusals and flow control -------------------------------------------------------------------------------

    def _refuse_unparsable(self) -> None:
        if self._head_size > self._server.limits.max_header_size:
            self._refuse_headers_too_large()
        else:
            self._refuse(ErrorKind.INVALID_INPUT, NOT_HTTP)

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
        request = self._request or Request(Head("GET", self._target, self._headers), self._peer)
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
        if self._pending:
            self._go_on()

    def eof_received(self) -> bool:
        # A client that closes looks the same as one that only stops sending. Taking it for gone frees the GPU at once.
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.disconnected = True
        self._server.closed(self)
        if self._active is not None:
            self._active.bytes_out = self.bytes_out
            self._pending.append(self._active)
            self._active = None
        self._forget_the_rest()
        self._let_go()
        if self._job is not None:
            self._job.cancel()

    def _let_go(self) -> None:
        """Ends the ring of connection and parser: what was read is freed now, and not when the collector comes by."""
        self._refused = True
        self.alarm.close()
        self._request = None
        self._unread = b""
        self._chunks = []
        self._headers = {}
        self._lines = []
        self._head_in = b""
        self._repeated = None
        self._parser = None

    def _forget_the_rest(self) -> None:
        """Gives back the room of requests that wait and of one that is arriving."""
        if self._request is not None and not self._refused:
            self._server.unreserve(self._body_size)
        for request in self._pending:
            self._server.unreserve(request.held)
        self._pending.clear()
