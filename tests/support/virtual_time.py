"""A loop whose time passes only while nothing is to be done: what a test measures is the policies, not the machine.

Sockets are real. When no socket and no callback is ready, the clock jumps to the next timer. A busy machine makes such
a test slower and changes nothing that it sees; work costs no time, so what work costs is for other tests to measure.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

#: Real seconds that what is on its way through the kernel, or in a thread, has before the clock jumps.
_GRACE = 0.0005


class _Clock:
    """Seconds, from where the real clock stands."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        return self.now


class _Selector(selectors.DefaultSelector):
    """Waits by letting the clock jump."""

    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        ready = super().select(min(timeout, _GRACE))
        if not ready:
            self._clock.now += max(0.0, timeout)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: _Clock) -> None:
        super().__init__(_Selector(clock))
        self._clock = clock

    def time(self) -> float:
        return self._clock()


def run_in_virtual_time(main: Coroutine[Any, Any, T], patch: pytest.MonkeyPatch) -> T:
    """Runs it on such a loop, with the `monotonic` of all that is loaded of Seawall showing the loop's time."""
    clock = _Clock()
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in ("gateway", "tests") and getattr(module, "monotonic", None) is time.monotonic:
            patch.setattr(module, "monotonic", clock)
    with asyncio.Runner(loop_factory=lambda: _Loop(clock)) as runner:
        return runner.run(main)
