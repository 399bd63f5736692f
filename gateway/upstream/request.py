"""The head of the request that goes to a backend: what is passed on of the client's headers, and what is ours."""

from __future__ import annotations

from gateway.http.message import HOP_BY_HOP

#: Not passed on: ours to set, meant for us, or the client's own credentials.
_OURS = HOP_BY_HOP | {
    b"accept-encoding",  # an answer that cannot be read cannot be judged
    b"api-key",
    b"authorization",
    b"content-encoding",  # undone: the backend gets the plain body
    b"content-length",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"traceparent",
    b"x-api-key",
    b"x-auth-token",
    b"x-correlation-id",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-proto",
    b"x-goog-api-key",
    b"x-http-method",
    b"x-http-method-override",
    b"x-method-override",
    b"x-original-url",
    b"x-real-ip",
    b"x-request-id",
    b"x-request-timeout",
    b"x-rewrite-url",
}
_CREDENTIALS = (b"authorization", b"x-api-key")


def passed_on(headers: dict[bytes, bytes], *, own: frozenset[bytes] = frozenset(), credentials: bool = False) -> bytes:
    """The client's headers that a backend gets, as header lines.

    `own` are names that the endpoint's configuration sets itself; `credentials` lets the client's pass.
    """
    dropped = _OURS | own if own else _OURS
    connection = headers.get(b"connection")
    if connection is not None and connection.lower() not in (b"keep-alive", b"close"):
        dropped = dropped | {token.strip().lower() for token in connection.split(b",")}
    lines = [b"%b: %b\r\n" % item for item in headers.items() if item[0] not in dropped]
    if credentials:
        lines += [b"%b: %b\r\n" % (name, headers[name]) for name in _CREDENTIALS if name in headers]
    return b"".join(lines)


def forwarded_for(client: str) -> bytes:
    """Tells the backend the client's address, as the trusted proxies gave it."""
    return b"x-forwarded-for: %b\r\n" % client.encode("ascii", "replace")


def request_head(method: str, target: bytes, endpoint_lines: bytes, request_lines: bytes, length: int | None) -> bytes:
    """A whole request head. `endpoint_lines` are prepared per endpoint (Host, credentials, configured headers)."""
    name = method.encode("ascii")
    if length is None:
        return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (name, target, endpoint_lines, request_lines)
    parts = name, target, endpoint_lines, request_lines, length
    return b"%b %b HTTP/1.1\r\n%b%bcontent-length: %d\r\n\r\n" % parts
