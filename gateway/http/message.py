"""A client's request as it came off the wire, and the pieces of an answer's head."""

from __future__ import annotations

from asyncio import Transport
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.head_reading import HeadReading

#: Connection-specific headers, never passed on in either direction (RFC 9110, section 7.6.1).
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

#: Bodies below this many bytes go out with their head in one segment; larger ones are not copied for it.
_SMALL_BODY = 16 * 1024

#: `HTTP/1.1 200 OK\r\n` and its like, made once.
STATUS_LINES: dict[int, bytes] = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


def write_whole(transport: Transport, head: bytes, body: bytes) -> None:
    """Writes a whole message."""
    if len(body) < _SMALL_BODY:
        transport.write(head + body if body else head)
    else:
        transport.writelines((head, body))


def status_line(status: int) -> bytes:
    """The status line with its line end; a status without a registered phrase gets an empty one."""
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


class Head:
    """What a request's head says. Requests of one connection that repeat its bytes share it: it is only read.

    `headers` has lower-case names; repeated fields are joined with a comma (RFC 9110, 5.3). Content-Length is not
    among them: the body is whole. `close_delimited`: an HTTP/1.0 client, for whom a stream ends with the connection.
    `reading` is what the pipeline has made of it, None as long as nothing.
    """

    __slots__ = ("close_delimited", "headers", "keep_alive", "method", "path", "query", "reading", "target")

    def __init__(self, method: str, target: bytes, headers: dict[bytes, bytes]) -> None:
        self.method = method
        self.target = target
        path, _, query = target.partition(b"?")
        self.path = path.decode("latin-1")
        self.query = query.decode("latin-1")
        self.headers = headers
        self.keep_alive = True
        self.close_delimited = False
        self.reading: HeadReading | None = None

    def header(self, name: bytes) -> str | None:
        """The value of a header by its lower-case name, or None."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


class Request:
    """One client request: what its `head` says, and its body.

    `body` is whole, as it came, with any chunked framing removed. `received_at` is the loop's time in seconds when
    the head was complete. `held` is how many bytes of the server's room for bodies it takes. `bytes_out` are those of
    the answer's body, when it is out.
    """

    __slots__ = (
        "body",
        "bytes_out",
        "head",
        "headers",
        "held",
        "keep_alive",
        "method",
        "path",
        "peer",
        "received_at",
    )

    def __init__(self, head: Head, peer: str, received_at: float = 0.0) -> None:
        self.head = head
        self.method = head.method
        self.path = head.path
        self.headers = head.headers
        self.keep_alive = head.keep_alive
        self.peer = peer
        self.received_at = received_at
        self.body = b""
        self.held = self.bytes_out = 0

    @property
    def target(self) -> bytes:
        return self.head.target

    @property
    def query(self) -> str:
        return self.head.query

    @property
    def close_delimited(self) -> bool:
        return self.head.close_delimited

    def header(self, name: bytes) -> str | None:
        """See `Head.header`."""
        return self.head.header(name)
