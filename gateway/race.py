"""The attempts of one request that run at the same moment, and waiting for the first to settle."""

from __future__ import annotations

import asyncio
from collections import deque

from gateway.attempt import Attempt


class Race:
    """Usually one attempt; more when one is slow or hedged. Costs one future per wait, no task."""

    __slots__ = ("_loop", "_settled", "_waiter", "running")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._settled: deque[Attempt] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.running: list[Attempt] = []

    def settle(self, attempt: Attempt) -> None:
        """An attempt is judged; called by the attempt itself, perhaps before it was added here."""
        self._settled.append(attempt)
        _wake(self._waiter)

    async def next(self, until: float) -> Attempt | None:
        """The next attempt that settles, removed from `running`; None when loop time reaches `until` first."""
        if not self._settled:
            self._waiter = self._loop.create_future()
            timer = self._loop.call_at(until, _wake, self._waiter)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        if not self._settled:
            return None
        attempt = self._settled.popleft()
        self.running.remove(attempt)
        return attempt


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
