"""Request bodies that come compressed (RFC 9110, section 8.4): read as what they hold, never as a bomb."""

from __future__ import annotations

import zlib

from gateway.validation.errors import InvalidRequest, unreadable
from policies.outcome import ErrorKind

_ANY_ZLIB_WRAPPER = 32 + zlib.MAX_WBITS  # gzip's or zlib's, found from the data
_CODINGS = frozenset({"gzip", "x-gzip", "deflate"})


def decoded(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its content coding, `limit` bytes at most. Raises InvalidRequest."""
    coding = encoding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in _CODINGS:
        raise unreadable("Content-Encoding must be gzip, deflate or identity. Send the body in one of these")
    decoder = zlib.decompressobj(_ANY_ZLIB_WRAPPER)
    try:
        plain = decoder.decompress(body, limit + 1)
    except zlib.error:
        raise unreadable(f"The body is not what its Content-Encoding says ({coding})") from None
    if len(plain) > limit:
        message = f"The decompressed body is larger than {limit} bytes. Send a smaller one, or raise server.max_body."
        raise InvalidRequest(ErrorKind.PAYLOAD_TOO_LARGE, message)
    if not decoder.eof or decoder.unused_data:
        raise unreadable(f"The {coding} body of this request is cut short or has something behind its end")
    return plain
