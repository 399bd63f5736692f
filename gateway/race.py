"""The attempts of one request that run at the same moment, and waiting for the first to settle."""

from __future__ import annotations

from time import monotonic

from gateway.alarm import Alarm
from gateway.attempt import Attempt
from gateway.http.job import Signal


class Race:
    """Usually one attempt; more when one is slow or hedged. Costs one signal per wait."""

    __slots__ = ("_alarm", "_settled", "_waiter", "running")

    def __init__(self, alarm: Alarm) -> None:
        """`alarm` ends its waits; it is nobody else's meanwhile."""
        self._alarm = alarm
        self._settled: list[Attempt] = []
        self._waiter: Signal | None = None
        self.running: list[Attempt] = []

    def settle(self, attempt: Attempt) -> None:
        """An attempt is judged; called by the attempt itself, perhaps before it was added here."""
        self._settled.append(attempt)
        if self._waiter is not None:
            self._waiter.set()

    async def settles(self, until: float) -> bool:
        """Whether an attempt settles, or has settled, before loop time reaches `until`."""
        if not self._settled:
            self._waiter = waiter = Signal()
            now = monotonic()
            self._alarm.set(until if until > now else now, waiter)
            try:
                await waiter
            finally:
                self._alarm.clear()
                self._waiter = None
        return bool(self._settled)

    @property
    def answered(self) -> bool:
        """Whether the attempt that `next` would give is an answer."""
        return bool(self._settled) and self._settled[0].failure is None

    async def next(self, until: float) -> Attempt | None:
        """The next attempt that settles, removed from `running`; None when loop time reaches `until` first."""
        if not self._settled and not await self.settles(until):
            return None
        attempt = self._settled.pop(0)
        self.running.remove(attempt)
        return attempt

    def clear(self) -> None:
        """Forgets every attempt, those too that have settled and were not asked for."""
        self.running.clear()
        self._settled.clear()
