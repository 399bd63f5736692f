"""What an examination finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How good: only a failure makes the command fail."""

    OK = "ok"
    ADVICE = "advice"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `advice` says what to do about it."""

    level: Level
    what: str
    advice: str = ""


def ok(what: str) -> Finding:
    return Finding(Level.OK, what)


def advice(what: str, do: str) -> Finding:
    return Finding(Level.ADVICE, what, do)


def warning(what: str, do: str) -> Finding:
    return Finding(Level.WARNING, what, do)


def failure(what: str, do: str) -> Finding:
    return Finding(Level.FAILURE, what, do)
