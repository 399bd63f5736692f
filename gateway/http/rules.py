"""What the parser lets through and we don't: what another server on the way might read otherwise (RFC 9112)."""

from __future__ import annotations

import re

#: A host or address with an optional port (RFC 3986, 3.2.2), or nothing.
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]*)(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)

NOT_HTTP = "The request is not valid HTTP/1.1. Check the client or proxy."
NO_ROOM = "The gateway holds as many request bodies as it may. Try again shortly."
NO_WEBSOCKET = (
    "WebSocket connections are not supported, and so is /v1/realtime not. Use the HTTP endpoints, with stream: true "
    "for answers as they come."
)


def is_host(value: bytes) -> bool:
    """Whether it can be a `Host` (empty is allowed)."""
    return _HOST.fullmatch(value) is not None


def origin_form(target: bytes) -> bytes:
    """An absolute-form target (`http://host/path`) as the path that it means (RFC 9112, 3.2.2); others as they are."""
    rest, found = _ABSOLUTE.subn(b"", target, count=1)
    if not found:
        return target
    return rest if rest.startswith(b"/") else b"/" + rest


def framing_problem(headers: dict[bytes, bytes], version: str) -> str | None:
    """Why a body's end is doubtful although the parser found one, or None.

    Any coding but `chunked` alone would leave a body that nobody here decodes. HTTP/1.0 has no transfer codings: who
    forwards one for an old client may have read the body otherwise (RFC 9112, 6.1).
    """
    coding = headers.get(b"transfer-encoding")
    if coding is None:
        return None
    if version == "1.0":
        return "Transfer-Encoding is not part of HTTP/1.0. Send Content-Length, or HTTP/1.1."
    if coding.lower() != b"chunked":
        return "Transfer-Encoding must be chunked and nothing else."
    return None


def without_upgrade(method: bytes, target: bytes, version: str, headers: dict[bytes, bytes]) -> bytes:
    """The head of a request whose offer to upgrade is declined, as RFC 9110 (7.8) allows: to be parsed anew."""
    nominated = {token.strip().lower() for token in headers.get(b"connection", b"").split(b",")}
    dropped = nominated | {b"connection", b"upgrade", b"http2-settings"}
    lines = [b"%b: %b\r\n" % item for item in headers.items() if item[0] not in dropped]
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, target, version.encode("ascii"), b"".join(lines))
