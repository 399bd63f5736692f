"""A client's request as it came off the wire, and the pieces of an answer's head."""

from __future__ import annotations

from asyncio import Transport
from http import HTTPStatus

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


class Request:
    """One client request. `headers` has lower-case names; repeated fields are joined with a comma (RFC 9110, 5.3).

    `body` is whole, as it came, with any chunked framing removed. `received_at` is the loop's time in seconds when
    the head was complete. `close_delimited`: an HTTP/1.0 client, for whom a stream ends with the connection. `held` is
    how many bytes of the server's room for bodies it takes. `bytes_out` are those of the answer's body, when it is out.
    """

    __slots__ = (
        "body",
        "bytes_out",
        "close_delimited",
        "headers",
        "held",
        "keep_alive",
        "method",
        "path",
        "peer",
        "query",
        "received_at",
        "target",
    )

    def __init__(self, method: str, target: bytes, headers: dict[bytes, bytes], peer: str) -> None:
        self.method = method
        self.target = target
        path, _, query = target.partition(b"?")
        self.path = path.decode("latin-1")
        self.query = query.decode("latin-1")
        self.headers = headers
        self.peer = peer
        self.body = b""
        self.held = 0
        self.bytes_out = 0
        self.keep_alive = True
        self.close_delimited = False
        self.received_at = 0.0

    def header(self, name: bytes) -> str | None:
        """The value of a header by its lower-case name, or None."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")
