"""How long a backend asks to be left alone: `Retry-After` and its relatives."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

#: Longer waits are read as this: a backend that means a week is as good as gone, and a slip of units is likelier.
MAX_WAIT = 86_400.0

_IN_MILLISECONDS = ("retry-after-ms", "x-ms-retry-after-ms")


def retry_after(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Seconds to wait, from 0 to `MAX_WAIT`, or None if `headers` (lower-case names) state none that can be read.

    The millisecond headers come first, being the more exact. A date (RFC 9110 10.2.3) counts from the answer's own
    `Date`, so that the two clocks need not agree; `now` (seconds since the epoch) stands in where there is none.
    """
    for name in _IN_MILLISECONDS:
        millis = _number(headers.get(name))
        if millis is not None:
            return min(millis / 1000, MAX_WAIT)
    text = headers.get("retry-after")
    if text is None:
        return None
    seconds = _number(text)
    if seconds is None:
        until = _date(text)
        if until is None:
            return None
        since = _date(headers.get("date", ""))
        seconds = max(0.0, until - (now() if since is None else since))
    return min(seconds, MAX_WAIT)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
