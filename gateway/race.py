"""The attempts of one request that run at the same moment, and waiting for the first to settle."""

from __future__ import annotations

import asyncio
from collections import deque

from gateway.attempt import Attempt
from gateway.http.job import Signal


class Race:
    """Usually one attempt; more when one is slow or hedged. Costs one signal per wait."""

    __slots__ = ("_loop", "_settled", "_waiter", "running")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._settled: deque[Attempt] = deque()
        self._waiter: Signal | None = None
        self.running: list[Attempt] = []

    def settle(self, attempt: Attempt) -> None:
        """An attempt is judged; called by the attempt itself, perhaps before it was added here."""
        self._settled.append(attempt)
        if self._waiter is not None:
            self._waiter.set()

    async def next(self, until: float) -> Attempt | None:
        """The next attempt that settles, removed from `running`; None when loop time reaches `until` first."""
        if not self._settled:
            self._waiter = waiter = Signal()
            timer = self._loop.call_at(until, waiter.set)
            try:
                await waiter
            finally:
                timer.cancel()
                self._waiter = None
        if not self._settled:
            return None
        attempt = self._settled.popleft()
        self.running.remove(attempt)
        return attempt
