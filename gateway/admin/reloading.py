"""Reload under an operator's eyes: what would change first, then just that."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateway.config import Config, ConfigError
from gateway.config.diff import after_restart, diff
from gateway.config.loader import load, read

#: Lines shown at most.
_MOST = 500


@dataclass(frozen=True, slots=True)
class Preview:
    """The file against what is served now.

    `problems` are why it can't be taken, `restart` those of the changes that need a new process. `revision` stands for
    the file's content: give it back to apply nothing but what was shown.
    """

    revision: str
    changes: list[str]
    restart: list[str]
    warnings: list[str]
    problems: list[str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def preview(path: Path, current: Config) -> tuple[Preview, Config | None]:
    """What a reload would do now, and the configuration it would take; None if it can't be."""
    try:
        text = read(path)
        loaded = load(text, str(path), os.environ)
    except ConfigError as error:
        return Preview("", [], [], [], [str(problem) for problem in error.problems][:_MOST]), None
    revision = hashlib.sha256(text.encode()).hexdigest()[:16]
    warnings = [str(problem) for problem in loaded.problems if problem.severity == "warning"][:_MOST]
    if loaded.config is None:
        problems = [str(problem) for problem in loaded.problems if problem.severity == "error"][:_MOST]
        return Preview(revision, [], [], warnings, problems), None
    changes = diff(current, loaded.config)[:_MOST]
    return Preview(revision, changes, after_restart(changes), warnings, []), loaded.config


def apply(config: Config, take: Callable[[Config], None]) -> str | None:
    """Takes it over; what stands in the way, such as a certificate that can't be read, or None."""
    try:
        take(config)
    except ConfigError as error:
        return "; ".join(str(problem) for problem in error.problems)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return None
