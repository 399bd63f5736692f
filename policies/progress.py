"""Tells a model server that hangs from one that is merely busy.

vLLM's `/health` answers 200 while its engine is frozen. What a frozen engine can't do is count: its generated-token
counter stands still although requests run. However long its queue is, a busy one's moves.
"""

from __future__ import annotations


class ProgressWatch:
    """Watches one endpoint's counter through samples, which may come at any pace.

    `window` (seconds) has to be longer than the longest prefill, during which no token is generated.
    """

    __slots__ = ("_generated", "_samples", "_still_since", "window")

    def __init__(self, window: float) -> None:
        self.window = window
        self._generated = 0.0
        self._still_since: float | None = None
        self._samples = 0

    def sample(self, running: float, generated: float, now: float) -> bool:
        """Takes the number of running requests and of tokens generated so far; returns whether the endpoint hangs.

        It hangs when requests ran in every sample of a `window`, of which there were at least three, and the counter
        did not move. A counter that falls is a server that was restarted, which is progress.
        """
        if running <= 0 or generated != self._generated or self._still_since is None:
            self._generated = generated
            self._still_since = now if running > 0 else None
            self._samples = 1
            return False
        self._samples += 1
        # One gap between two samples proves nothing: the scrape itself may have been late.
        return self._samples >= 3 and now - self._still_since >= self.window
