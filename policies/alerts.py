"""Which of the conditions that hold now are worth a message: after how long, once, together, and not too often.

After Prometheus' Alertmanager: a condition has to hold for a while, what changes at about the same time goes into one
message, what was told is told again only after hours, and its end is told too. Nothing is lost when the rate limit
holds a message back: the next one tells the state as it is then.
https://prometheus.io/docs/alerting/latest/alertmanager/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: Conditions that are followed at a time, at most; further ones wait until one has ended.
MAX_FOLLOWED = 256


@dataclass(frozen=True, slots=True, order=True)
class Condition:
    """Something that is wrong: its kind, and what it is wrong with (a route, a backend; empty for the process)."""

    kind: str
    subject: str


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """Times in seconds. `hold`: how long a kind must hold before it is told (0 for kinds that are not in it).

    `calm`: how long a condition must be gone before its end is told. `group`: how long a change waits for others to be
    told with it. `repeat`: after how long what still holds is told again. `per_hour`, `burst`: messages at most.
    """

    hold: Mapping[str, float]
    calm: float
    group: float
    repeat: float
    per_hour: float
    burst: int


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition as a message tells it; `since` is when it began, `text` the latest description."""

    condition: Condition
    since: float
    text: str


@dataclass(frozen=True, slots=True)
class Message:
    """What to send. `continuing` were told before and still hold; they are repeated for the reader's sake."""

    fired: tuple[Alert, ...]
    ended: tuple[Alert, ...]
    continuing: tuple[Alert, ...]


class _Followed:
    """One condition. `told` is when it was last told, None for not yet; `gone` since when it does not hold."""

    __slots__ = ("firing", "gone", "since", "text", "told")

    def __init__(self, since: float, text: str) -> None:
        self.since = since
        self.text = text
        self.firing = False
        self.told: float | None = None
        self.gone: float | None = None


class AlertPolicy:
    """The alerts of one process. Not told of anything for long, it stays as it was: call `update` every few seconds."""

    __slots__ = ("_bucket", "_changed", "_filled", "_followed", "held_back", "settings")

    def __init__(self, settings: AlertSettings) -> None:
        self.settings = settings
        self.held_back = 0
        self._followed: dict[Condition, _Followed] = {}
        self._changed: float | None = None  # when the first change came that is not told yet
        self._bucket = float(settings.burst)
        self._filled: float | None = None

    @property
    def firing(self) -> list[Condition]:
        """What holds now and has held for long enough, told or not."""
        return sorted(condition for condition, each in self._followed.items() if each.firing)

    def update(self, holding: Mapping[Condition, str], now: float) -> Message | None:
        """Takes what holds now, with a description of each; gives the message that is due, if any."""
        self._begin(holding, now)
        self._end(holding, now)
        fired, ended = self._untold(now)
        repeats = any(self._due_again(each, now) for each in self._followed.values())
        if not (fired or ended or repeats):
            self._changed = None
            return None
        self._changed = now if self._changed is None else self._changed
        if (fired or ended) and not repeats and now - self._changed < self.settings.group:
            return None
        if not self._take(now):
            self.held_back += 1
            return None
        return self._tell(fired, ended, now)

    # -- following -----------------------------------------------------------------------------------------------------

    def _begin(self, holding: Mapping[Condition, str], now: float) -> None:
        for condition, text in holding.items():
            each = self._followed.get(condition)
            if each is None:
                if len(self._followed) >= MAX_FOLLOWED:
                    continue
                each = self._followed[condition] = _Followed(now, text)
            each.text = text
            each.gone = None
            if now - each.since >= self.settings.hold.get(condition.kind, 0.0):
                each.firing = True

    def _end(self, holding: Mapping[Condition, str], now: float) -> None:
        for condition, each in list(self._followed.items()):
            if condition in holding:
                continue
            each.gone = now if each.gone is None else each.gone
            untold = each.told is None and (not each.firing or now - each.gone >= self.settings.calm)
            if untold:
                del self._followed[condition]

    def _untold(self, now: float) -> tuple[list[Condition], list[Condition]]:
        fired = [c for c, each in self._followed.items() if each.firing and each.told is None]
        ended = [
            c for c, each in self._followed.items() if each.gone is not None and now - each.gone >= self.settings.calm
        ]
        return fired, [condition for condition in ended if condition not in fired]

    def _due_again(self, each: _Followed, now: float) -> bool:
        return each.told is not None and each.gone is None and now - each.told >= self.settings.repeat

    # -- telling -------------------------------------------------------------------------------------------------------

    def _take(self, now: float) -> bool:
        """Takes one message from a token bucket."""
        passed = 0.0 if self._filled is None else max(0.0, now - self._filled)
        self._filled = now
        self._bucket = min(float(self.settings.burst), self._bucket + passed * self.settings.per_hour / 3600.0)
        if self._bucket < 1.0:
            return False
        self._bucket -= 1.0
        return True

    def _tell(self, fired: Iterable[Condition], ended: Iterable[Condition], now: float) -> Message:
        told_before = [c for c, each in self._followed.items() if each.told is not None and c not in set(ended)]
        message = Message(self._alerts(fired), self._alerts(ended), self._alerts(told_before))
        for condition in ended:
            del self._followed[condition]
        for each in self._followed.values():
            if each.firing:
                each.told = now
        self._changed = None
        return message

    def _alerts(self, conditions: Iterable[Condition]) -> tuple[Alert, ...]:
        followed = self._followed
        return tuple(Alert(c, followed[c].since, followed[c].text) for c in sorted(conditions))
