"""One try at one endpoint: sends the request and holds the answer back until it can be judged.

A whole answer is judged when it is complete, a stream when its first content has come. Until then nothing has reached
the client, so a failure here can still be hidden by another attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from time import monotonic
from typing import TYPE_CHECKING

from gateway.relay.sse import (
    ABORTED,
    GIVEN_UP,
    FrameScanner,
    FrameTooLargeError,
    StreamShape,
    data_of,
    document_of,
    shape_for,
    split,
)
from gateway.upstream.connection import Break, Sink, UpstreamConnection, UpstreamHead
from gateway.upstream.pool import PoolExhaustedError
from policies.outcome import ErrorKind, Failure

if TYPE_CHECKING:
    from gateway.context import AttemptRecord
    from gateway.runtime import Candidate
    from policies.breaker import Permit

#: A whole answer up to this size is judged before any of it goes to the client; a larger one is passed on as it comes.
MAX_JUDGED = 8 * 1024 * 1024
#: An answer that is translated, and so must be whole, may be this large.
MAX_TRANSLATED = 64 * 1024 * 1024
#: Seconds in which a kept-alive connection that was closed already shows it. One lost later was lost with the request.
STALE_WITHIN = 1.0
#: A stream that sends this much without any content is passed on.
MAX_HELD = 64 * 1024
#: An error answer is read up to here; what it says is known by then.
MAX_ERROR_BODY = 64 * 1024


class AnswerKind(Enum):
    """How a good answer goes on to the client."""

    WHOLE = "whole"  # complete and judged
    STREAM = "stream"  # server-sent events, the rest to come
    RAW = "raw"  # bytes that nobody can judge (audio, or beyond `MAX_JUDGED`), the rest to come


#: By these names, as to find a member in its enum costs as much as several calls of a function (in Python 3.11).
WHOLE, STREAM, RAW = AnswerKind


class Attempt:
    """A sink for one exchange. `settled` is called once, when `failure` or `kind` is known.

    `held` are bytes that came and belong to the client. After a settled stream, `hand_over` gives the exchange to a
    relay, with whatever happened in between. `record` is what operators see of it.
    """

    __slots__ = (
        "_chunks",
        "_connecting",
        "_connection",
        "_end",
        "_head_bytes",
        "_loop",
        "_scanner",
        "_settled",
        "_sink",
        "_size",
        "_whole",
        "body",
        "candidate",
        "endpoint",
        "failure",
        "head",
        "held",
        "kind",
        "path",
        "permit",
        "record",
        "settled_at",
        "shape",
        "started",
    )

    def __init__(
        self,
        candidate: Candidate,
        path: str,
        request_head: bytes,
        body: bytes,
        settled: Callable[[Attempt], None],
        permit: Permit | None,
        *,
        whole: bool = False,
    ) -> None:
        """`whole`: the answer is of no use but complete and judged."""
        self.candidate = candidate
        self.endpoint = endpoint = candidate.endpoint
        self.path = path
        self.shape: StreamShape = shape_for(path)
        self.body = body
        self.permit = permit
        self.record: AttemptRecord = None  # type: ignore[assignment]  # set by the record itself
        self.started = 0.0
        self.settled_at = 0.0
        self.failure: Failure | None = None
        self.kind: AnswerKind | None = None
        self.head: UpstreamHead | None = None
        self.held = b""
        self._head_bytes = request_head
        self._settled = settled
        self._loop = endpoint.pool.loop
        self._connection: UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | asyncio.TimerHandle | None = None
        self._scanner: FrameScanner | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._whole = whole
        self._end: tuple[Break, str] | bool | None = None  # what came after settling: True for a clean end
        self._sink: Sink | None = self  # who receives the exchange

    def forget(self) -> None:
        """Lets go of the bodies and of its part in a circle: it is over. The collector would come by much later."""
        self.body = self.held = b""
        self._chunks = []
        self._connection = self._sink = None

    # -- sending -------------------------------------------------------------------------------------------------------

    def start(self, connect_timeout: float, delay: float = 0.0) -> None:
        """Sends the request on a kept-alive connection or a new one, `delay` seconds from now. May settle at once."""
        self.started = monotonic()
        if delay > 0.0:
            self._connecting = self._loop.call_later(delay, self._begin, connect_timeout)
        else:
            self._begin(connect_timeout)

    def refuse(self, failure: Failure) -> None:
        """Settles with a failure without having asked."""
        self.started = monotonic()
        self._end = True
        self._fail(failure)

    def _begin(self, connect_timeout: float) -> None:
        self._connecting = None
        connection = self.endpoint.pool.take()
        if connection is not None:
            self._send(connection)
        else:
            self._connect(connect_timeout)

    def _connect(self, timeout: float) -> None:
        try:
            self._connecting = self.endpoint.pool.connect(timeout, self._send, self.on_broken)
        except PoolExhaustedError:
            evidence = "all connections that the endpoint may have are in use"
            self._fail(Failure(ErrorKind.MODEL_OVERLOADED, evidence, retry_after=1.0))

    def _send(self, connection: UpstreamConnection) -> None:
        self._connecting = None
        self._connection = connection
        connection.send(self, self._head_bytes, self.body)

    def cancel(self) -> None:
        """Gives up: the backend sees its connection close and stops working on the request."""
        self._settled = _ignore
        if self._connecting is not None:
            self._connecting.cancel()
        if (connection := self._held_connection) is not None:
            connection.abort()
        self._end = True

    @property
    def _held_connection(self) -> UpstreamConnection | None:
        """The connection while it carries this exchange. Afterwards it may well carry another request's."""
        connection = self._connection
        return connection if connection is not None and connection.sink is self._sink else None

    def expire(self, failure: Failure) -> None:
        """Gives up and settles with a failure, such as a timeout."""
        settled = self._settled
        self.cancel()
        self._settled = settled
        self._fail(failure)

    # -- receiving -----------------------------------------------------------------------------------------------------

    def on_head(self, head: UpstreamHead) -> None:
        self.head = head
        if head.status == 200 and head.is_event_stream and not (head.encoded or self._whole):
            self._scanner = FrameScanner()

    def on_data(self, data: bytes) -> None:
        if self.kind is not None:
            self.held += data  # between the judgement and the relay's taking over
            return
        head = self.head
        assert head is not None
        if self._scanner is not None:
            self._hold_frames(data)
            return
        self._chunks.append(data)
        self._size += len(data)
        if head.status >= 400:
            if self._size > MAX_ERROR_BODY:
                self._judge_whole()
                if (connection := self._held_connection) is not None:
                    connection.abort()
        elif self._whole:
            if self._size > MAX_TRANSLATED:
                self.expire(Failure(ErrorKind.GENERATION_FAILED, "the answer is too large", status=head.status))
        elif self._size > MAX_JUDGED or head.is_raw:
            self._succeed(RAW, b"".join(self._chunks))

    def on_end(self) -> None:
        self._end = True
        if self.kind is not None or self.failure is not None:
            return
        if self._scanner is None:
            self._judge_whole()
        else:
            evidence = "the stream ended before any content"
            self._fail(Failure(ErrorKind.GENERATION_FAILED, evidence, status=200))

    def on_broken(self, reason: Break, detail: str) -> None:
        if reason is Break.STALE and monotonic() - self.started < STALE_WITHIN:
            # Nothing was processed: the server had closed the kept-alive connection. Not a failure of the endpoint.
            self._connect(self.endpoint.pool.connect_timeout)
            return
        self._end = (reason, detail)
        if self.kind is not None or self.failure is not None:
            return
        garbage = reason is Break.GARBAGE or self.head is not None
        kind = ErrorKind.GENERATION_FAILED if garbage else ErrorKind.BACKEND_UNREACHABLE
        self._fail(Failure(kind, f"{reason.value}: {detail}", status=self.head.status if self.head else None))

    # -- judging -------------------------------------------------------------------------------------------------------

    def _hold_frames(self, data: bytes) -> None:
        assert self._scanner is not None
        try:
            frames = self._scanner.feed(data)
        except FrameTooLargeError:
            self.expire(Failure(ErrorKind.GENERATION_FAILED, "a frame of the stream has no end", status=200))
            return
        self.held += frames
        for frame in split(frames):
            if (GIVEN_UP in frame or ABORTED in frame) and (
                failure := self.endpoint.dialect.classify_frame(data_of(frame))
            ):
                self.expire(failure)
                return
            document = document_of(frame)
            ends_empty = document is None and self.shape.ends(frame)
            if ends_empty and self.endpoint.dialect.tells_finish:
                evidence = "the stream ended before any content"
                self.expire(Failure(ErrorKind.GENERATION_FAILED, evidence, status=200))
                return
            if ends_empty or (document is not None and self.shape.has_content(document)):
                self._succeed(STREAM, self.held + self._scanner.rest)
                return
        if len(self.held) > MAX_HELD:
            self._succeed(STREAM, self.held + self._scanner.rest)

    def _judge_whole(self) -> None:
        head = self.head
        assert head is not None
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks = []
        if head.encoded and self._whole:
            self._fail(Failure(ErrorKind.GENERATION_FAILED, "the answer is compressed", status=head.status))
            return
        if head.encoded and head.status < 400:
            self._succeed(WHOLE, body)  # compressed although we did not ask: passed on unjudged
            return
        failure = self.endpoint.dialect.classify(self.path, head.text, body)
        if failure is None:
            self._succeed(WHOLE, body)
        else:
            self._fail(failure)

    def _succeed(self, kind: AnswerKind, held: bytes) -> None:
        self.kind = kind
        self.held = held
        self._chunks = []
        self._settle()

    def _fail(self, failure: Failure) -> None:
        self.failure = failure
        self._settle()

    def _settle(self) -> None:
        self.settled_at = monotonic()
        settled, self._settled = self._settled, _ignore
        settled(self)

    # -- after the judgement -------------------------------------------------------------------------------------------

    def hand_over(self, sink: Sink) -> None:
        """Lets `sink` receive the rest, beginning with what came since the judgement (the held bytes are its own)."""
        if self._end is None:
            assert self._connection is not None
            self._connection.sink = self._sink = sink
        elif self._end is True:
            sink.on_end()
        else:
            sink.on_broken(*self._end)  # type: ignore[misc]

    def pass_trial(self, now: float) -> None:
        """Its stream goes on well: a circuit that has let it through to find out need not wait for its end."""
        self.endpoint.pass_trial(self.permit, self.settled_at - self.started, now)

    def pause(self) -> None:
        """Stops reading from the backend: the client is slow."""
        if (connection := self._held_connection) is not None:
            connection.pause()

    def resume(self) -> None:
        """Reads on."""
        if (connection := self._held_connection) is not None:
            connection.resume()


def _ignore(_: Attempt) -> None:
    """Stands where a settled attempt no longer reports."""
