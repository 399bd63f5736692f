"""A transport without a socket."""

from __future__ import annotations

import asyncio


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
