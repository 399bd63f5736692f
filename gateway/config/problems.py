"""What is wrong with a configuration, said so that it can be mended at once."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding. `line` and `column` count from 1; 0 where it is about the whole file. `path` is dotted."""

    file: str
    line: int
    column: int
    path: str
    message: str
    hint: str = ""
    severity: Severity = "error"

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        path = f"{self.path}: " if self.path else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}: {path}{self.message}{hint}"


class ConfigError(Exception):
    """A configuration that can't be used. `problems` holds everything found, in the file's order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = in_order(problems)
        super().__init__("\n".join(map(str, self.problems)))


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """By position, each once."""
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.line, problem.column))


def closest(word: str, known: Iterable[str]) -> str:
    """A hint naming the known word that was probably meant, or all of them if they are few, or nothing."""
    from difflib import get_close_matches  # only on the way to an error

    words = sorted(known)
    matches = get_close_matches(word, words, n=1) or [w for w in words if w.lower() == word.lower()]
    if matches:
        return f"did you mean {matches[0]}?"
    return f"known: {', '.join(words)}" if 0 < len(words) <= 16 else ""


def shown(value: object) -> str:
    """A value as messages name it: short scalars themselves, of the rest only what they are."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:.6g}" if isinstance(value, float) or abs(value) >= 10**15 else str(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:40] + "…")
    return kind_of(value)


def kind_of(value: object) -> str:
    """What sort of thing a YAML value is."""
    if value is None:
        return "null"
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a string", dict: "a mapping"}
    return kinds.get(type(value), "a list")
