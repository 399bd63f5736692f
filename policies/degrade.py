"""Less work per request while backends are under pressure, and back to full when it is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

#: How far pressure has to fall below the threshold of a level before it is left.
HYSTERESIS = 0.1
#: Seconds that it has to stay there.
DWELL = 10.0


class Level(IntEnum):
    """Ordered: a higher one gives less."""

    FULL = 0
    REDUCED = 1
    MINIMAL = 2

    @property
    def label(self) -> str:
        """As in headers and metrics."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class LevelSettings:
    """Pressure (0 to 1) from which on a level applies, and its factor on what a request asks for."""

    above: float
    quality: float


@dataclass(frozen=True, slots=True)
class DegradeSettings:
    """`degrade` of a policy; `signal` names the pressures that are watched."""

    signal: tuple[str, ...]
    reduced: LevelSettings
    minimal: LevelSettings


class Degradation:
    """The level of one route. Goes up at once, and down one level at a time when pressure has been low for `DWELL`."""

    __slots__ = ("_calm_since", "level", "pressure", "settings")

    def __init__(self, settings: DegradeSettings) -> None:
        self.settings = settings
        self.level = Level.FULL
        self.pressure = 0.0
        self._calm_since: float | None = None

    def update(self, signals: Mapping[str, float], now: float) -> Level:
        """Takes pressures by name, 0 to 1; the highest of those watched counts, one that is missing does not."""
        # NaN compares as False, so that a broken gauge is no pressure.
        self.pressure = max([s for name in self.settings.signal if (s := signals.get(name, 0.0)) > 0.0], default=0.0)
        asked = self._level_of(self.pressure)
        if asked >= self.level:
            self.level = asked
            self._calm_since = None
        elif self.pressure > max(0.0, self._threshold(self.level) - HYSTERESIS):
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        elif now - self._calm_since >= DWELL:
            self.level = Level(self.level - 1)
            self._calm_since = now
        return self.level

    def emergency(self) -> None:
        """A server ran out of memory: one level less at once, whatever the signals say; back as from any other."""
        self.level = Level(min(self.level + 1, Level.MINIMAL))
        self._calm_since = None

    @property
    def quality(self) -> float:
        """The present level's factor, 1.0 for full."""
        if self.level is Level.FULL:
            return 1.0
        return (self.settings.reduced if self.level is Level.REDUCED else self.settings.minimal).quality

    def _level_of(self, pressure: float) -> Level:
        if pressure > self.settings.minimal.above:
            return Level.MINIMAL
        return Level.REDUCED if pressure > self.settings.reduced.above else Level.FULL

    def _threshold(self, level: Level) -> float:
        return (self.settings.minimal if level is Level.MINIMAL else self.settings.reduced).above


def scaled(amounts: Mapping[str, int | None], factor: float) -> dict[str, int]:
    """The amounts (max_tokens, steps, n, ...) that a factor of at most 1 changes, with their new values, never below 1.

    Amounts that are None stay out: what a request leaves open is not known here.
    """
    changed = {}
    for name, amount in amounts.items():
        if amount is not None and (less := max(1, int(amount * factor))) < amount:
            changed[name] = less
    return changed
