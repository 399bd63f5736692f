"""The head of what goes back to the client: the backend's own headers, and what Seawall says of the answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

from gateway.context import RequestContext
from gateway.http.message import HOP_BY_HOP
from gateway.upstream.connection import UpstreamHead

#: Ours to say, or about the gateway's own account with the backend, or said of an origin that is not the backend's.
_DROPPED = HOP_BY_HOP | {
    b"alt-svc",
    b"content-length",
    b"ratelimit",
    b"ratelimit-limit",
    b"ratelimit-policy",
    b"ratelimit-remaining",
    b"ratelimit-reset",
    b"request-id",
    b"server",
    b"set-cookie",
    b"strict-transport-security",
    b"x-correlation-id",
    b"x-ratelimit-limit-requests",
    b"x-ratelimit-limit-tokens",
    b"x-ratelimit-remaining-requests",
    b"x-ratelimit-remaining-tokens",
    b"x-ratelimit-reset-requests",
    b"x-ratelimit-reset-tokens",
    b"x-request-id",
    b"x-seawall-attempts",
    b"x-seawall-backend",
    b"x-seawall-degraded",
    b"x-seawall-fallback",
    b"x-seawall-model",
    b"x-seawall-overhead-ms",
    b"x-seawall-stale",
    b"x-seawall-warning",
    b"x-should-retry",
}
_UNSAFE = re.compile(r"[^\x20-\x7e]")


def safe(value: str) -> str:
    """A value that can stand in a header: anything but printable ASCII is percent-encoded."""
    return quote(value, safe=" !#$&'()*+,/:;=?@[]-._~") if _UNSAFE.search(value) else value


def error_lines(headers: Mapping[str, str]) -> bytes:
    """Header lines of an error's own headers."""
    return "".join(f"{name.lower()}: {value}\r\n" for name, value in headers.items()).encode("latin-1")


def overhead_line(ctx: RequestContext, now: float) -> bytes:
    """The header that every answer carries, too: milliseconds in Seawall so far, without backends and waits."""
    spent = now - ctx.request.received_at - ctx.backend_time
    return b"x-seawall-overhead-ms: %.3f\r\n" % (spent * 1000 if spent > 0.0 else 0.0)


def attempt_lines(ctx: RequestContext, now: float) -> bytes:
    """How the answer came about: attempts, time in Seawall; where they apply the key's limits, warning, degradation."""
    lines = ctx.grant.headers if ctx.grant is not None else b""
    lines += b"x-seawall-attempts: %d\r\n" % len(ctx.attempts) + overhead_line(ctx, now)
    if ctx.degraded is not None:
        lines += f"x-seawall-degraded: {ctx.degraded}\r\n".encode("ascii")
    if ctx.warning is not None:
        lines += f"x-seawall-warning: {safe(ctx.warning)}\r\n".encode("ascii")
    return lines


def answer_lines(ctx: RequestContext, head: UpstreamHead, candidate_lines: bytes, now: float) -> bytes:
    """All header lines of a proxied answer but its framing."""
    own = head.passed_on
    if own is None:
        own = head.passed_on = _passed_on(head)
    if ctx.request.path.startswith("/v1/messages"):  # where Anthropic's SDK looks for it
        own += b"request-id: %b\r\n" % ctx.correlation_id.encode("ascii")
    return own + ctx.identity_lines + candidate_lines + attempt_lines(ctx, now)


def _passed_on(head: UpstreamHead) -> bytes:
    """The lines of the backend's own headers that the client gets."""
    dropped = _DROPPED
    if head.connection and head.connection.lower() not in (b"keep-alive", b"close"):
        dropped = dropped | {token.strip().lower() for token in head.connection.split(b",")}
    return b"".join([b"%b: %b\r\n" % item for item in head.headers if item[0] not in dropped])
