"""Keeps the garbage collector from stopping the process over what is there for good.

A full collection looks at every object, most of which are modules, schemas and the configuration: some 90,000, and 50
ms in which no request is answered, every few seconds under load. So what is there after the start is frozen: it is
still freed by its reference counts, and only cycles in it wait until it is thawed, some time after each reload.
Requests leave next to no cycles behind; a search at every 700 new objects, Python's default, costs them several percent
of their time.
"""

from __future__ import annotations

import gc

#: Seconds from a change of configuration to the collection of what it left behind, when its last requests are mostly
#: over. However often things change, there is one full collection in this time.
_PATIENCE = 30.0
_THRESHOLDS = (10_000, 10, 10)


class LongLived:
    """For the one who owns the process; `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._due: float | None = None
        self._freeze()
        gc.set_threshold(*_THRESHOLDS)

    def changed(self, now: float) -> None:
        """A configuration was replaced by another."""
        if self._due is None:
            self._due = now + _PATIENCE

    def look(self, now: float) -> None:
        """Collects and freezes anew when it is time; to be called about every second."""
        if self._due is not None and now >= self._due:
            self._due = None
            gc.unfreeze()
            self._freeze()

    @staticmethod
    def _freeze() -> None:
        gc.collect()
        gc.freeze()
