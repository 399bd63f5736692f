"""Server-sent events to the pages that are open: one state a second, put together once for all of them.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from gateway.errors.taxonomy import GatewayError
from policies.outcome import ErrorKind

#: Pages served at a time; more are told to try again.
MAX_CLIENTS = 16
#: Events that a page may be behind. One that is slower is let go, and asks anew.
_BEHIND = 8
#: Seconds that a write to a page may take.
_PATIENCE = 15.0
_Queue = asyncio.Queue[bytes | None]


def event(name: str, data: Mapping[str, Any]) -> bytes:
    """One event; orjson writes no line ends."""
    return b"event: %b\ndata: %b\n\n" % (name.encode("ascii"), orjson.dumps(data, default=str))


class EventHub:
    """The open pages."""

    def __init__(self) -> None:
        self._queues: set[_Queue] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._queues)

    def publish(self, message: bytes) -> None:
        """Sends an event to every page."""
        for queue in list(self._queues):
            if queue.full():
                self._let_go(queue)
            else:
                queue.put_nowait(message)

    def close(self) -> None:
        """Ends all streams."""
        self._closed = True
        for queue in list(self._queues):
            self._let_go(queue)

    async def serve(self, request: web.Request, first: bytes) -> web.StreamResponse:
        """Streams `first`, then what is published, until the page goes. Raises GatewayError if there are too many."""
        if self._closed or len(self._queues) >= MAX_CLIENTS:
            full = f"{MAX_CLIENTS} admin pages are open, which is as many as may be. Close one, then try again."
            raise GatewayError(ErrorKind.MODEL_OVERLOADED, full, retry_after=5.0, code="too_many_pages")
        queue: _Queue = asyncio.Queue(_BEHIND)
        self._queues.add(queue)
        try:
            response = web.StreamResponse(
                headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            )
            await response.prepare(request)
            message: bytes | None = b"retry: 2000\n\n" + first
            while message is not None:
                async with asyncio.timeout(_PATIENCE):
                    await response.write(message)
                message = await queue.get()
        except (TimeoutError, ConnectionError):
            pass  # it left, or reads no more
        finally:
            self._queues.discard(queue)
        return response

    def _let_go(self, queue: _Queue) -> None:
        self._queues.discard(queue)
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)
