"""A process that was held up: stopped, starved of its core, or its machine was. Its timers then come late.

All timers that were due meanwhile go off at once, before anything is read that others sent in that time. So one that is
late says nothing of them, and whatever it watches gets a little longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

#: Seconds by which a timer is late when the process was held up.
LATE = 0.05
#: Seconds that are given for being late, at most.
MOST = 1.0


def held_up(due: float, now: float) -> bool:
    """Whether a timer that was due at that time and goes off now says that the process was held up."""
    return now - due > LATE


def longer(due: float, now: float) -> float:
    """Seconds to wait on when a timer that was due at that time goes off now; 0 when it is not late."""
    return min(now - due, MOST) if held_up(due, now) else 0.0


@asynccontextmanager
async def patient_timeout(seconds: float) -> AsyncIterator[None]:
    """`asyncio.timeout` for what others are judged by. Raises TimeoutError.

    Where the process is held up until after the time, they have as much longer, once and `MOST` seconds at most.
    """
    loop = asyncio.get_running_loop()
    due = loop.time() + seconds

    def time_is_up() -> None:
        if more := longer(due, loop.time()):
            timers.append(loop.call_later(more, end))
        else:
            end()

    def end() -> None:
        scope.reschedule(loop.time())

    timers = [loop.call_at(due, time_is_up)]
    try:
        async with asyncio.timeout(None) as scope:
            yield
    finally:
        for timer in timers:
            timer.cancel()
