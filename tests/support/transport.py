"""A client's connection without a socket: what it writes to, and the limits of its server."""

from __future__ import annotations

import asyncio

from gateway.http.server import ServerLimits

LIMITS = ServerLimits(
    max_body=4096,
    max_buffered=8192,
    max_connections=10,
    max_header_size=2048,
    header_timeout=1.0,
    body_timeout=1.0,
    idle_timeout=1.0,
)


class Transport(asyncio.Transport):
    """Takes everything, and remembers whether it was closed."""

    closed = False

    def write(self, data: object) -> None: ...

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("127.0.0.1", 1) if name == "peername" else default
