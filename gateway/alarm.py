"""A timer that stays from one wait to the next, as most waits end long before their time."""

from __future__ import annotations

import asyncio
from math import inf

from backends.held_up import longer
from gateway.http.job import Signal


class Alarm:
    """Sets the signal of one wait at a time when its time is up.

    To make a timer of the loop and cancel it costs as much as 2 % of a request. So it is left to run when a wait is
    over; what counts when it goes off is the wait of then, for which it may have to be set anew.
    """

    __slots__ = ("_due", "_goes_off", "_loop", "_signal", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._goes_off = inf  # when the timer does
        self._signal: Signal | None = None
        self._due = inf

    def set(self, due: float, signal: Signal) -> None:
        """Sets the signal when loop time reaches `due`; a wait before it is forgotten."""
        self._signal, self._due = signal, due
        if due < self._goes_off:
            self._run_until(due)

    def clear(self) -> None:
        """The wait is over."""
        self._signal = None

    def close(self) -> None:
        """Lets go of the timer: no wait is to come."""
        self._signal = None
        self._goes_off = inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run_until(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._goes_off = self._loop.call_at(at, self._time_is_up), at

    def _time_is_up(self) -> None:
        went_off, self._goes_off = self._goes_off, inf
        self._timer = None
        signal, due = self._signal, self._due
        if signal is None:
            return
        now = self._loop.time()
        if due > went_off:
            self._run_until(due)
        elif more := longer(due, now):
            self._timer = self._loop.call_at(now + more, signal.set)
        else:
            signal.set()
