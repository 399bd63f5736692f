"""When a worker that has ended is started again: pure, with time and randomness passed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartSettings:
    """Exponential backoff and the crash-loop limit; times in seconds.

    The n-th failure in a row waits `initial * factor ** (n - 1)`, at most `max`, less a random share up to `jitter`
    (0..1). A failure more than `max_failures` in a row is a crash loop; of failures that no restart mends (a missing
    file) `max_lasting` in a row are forgiven, for the file may just have been on its way. A worker that was ready for
    `stable_after` starts again from the beginning.
    """

    initial: float = 1.0
    factor: float = 2.0
    max: float = 60.0
    jitter: float = 0.2
    max_failures: int = 5
    max_lasting: int = 1
    stable_after: float = 60.0

    def __post_init__(self) -> None:
        if self.initial < 0 or self.max < self.initial or self.factor < 1:
            raise ValueError("restart backoff needs 0 <= initial <= max and factor >= 1")
        if not 0 <= self.jitter <= 1 or self.max_failures < 0 or self.max_lasting < 0:
            raise ValueError("restart backoff needs 0 <= jitter <= 1, max_failures >= 0 and max_lasting >= 0")


class RestartPolicy:
    """The failures in a row of one worker. `random` gives floats in [0, 1)."""

    def __init__(self, settings: RestartSettings, random: Callable[[], float]) -> None:
        self._settings = settings
        self._random = random
        self._failures = 0
        self._lasting = 0
        self._ready_at: float | None = None

    @property
    def failures(self) -> int:
        """Failures in a row up to now."""
        return self._failures

    def ready(self, now: float) -> None:
        """The worker has become ready at `now` (seconds)."""
        self._ready_at = now

    def ended(self, now: float, *, lasting: bool = False) -> float | None:
        """The worker has ended at `now`: seconds to wait before the next start, or None to give it up.

        `lasting`: it ended for a reason that the next start will most likely meet again.
        """
        if self._ready_at is not None and now - self._ready_at >= self._settings.stable_after:
            self._failures = 0
        self._ready_at = None
        self._failures += 1
        self._lasting = self._lasting + 1 if lasting else 0
        if self._failures > self._settings.max_failures or self._lasting > self._settings.max_lasting:
            return None
        return self._delay() * (1 - self._settings.jitter * self._random())

    def _delay(self) -> float:
        delay = self._settings.initial
        for _ in range(self._failures - 1):
            if delay >= self._settings.max:  # before the power overflows
                break
            delay *= self._settings.factor
        return min(delay, self._settings.max)
