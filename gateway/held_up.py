"""A process that was held up: stopped, starved of its core, or its machine was. Its timers then come late.

All timers that were due meanwhile go off at once, before anything is read that others sent in that time. So one that is
late says nothing of them, and whatever it watches gets a little longer.
"""

from __future__ import annotations

#: Seconds by which a timer is late when the process was held up.
LATE = 0.05
#: Seconds that are given for being late, at most.
MOST = 1.0


def held_up(due: float, now: float) -> bool:
    """Whether a timer that was due at that time and goes off now says that the process was held up."""
    return now - due > LATE
