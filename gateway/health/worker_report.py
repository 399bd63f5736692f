"""What a supervised worker says of itself while it is down: the body that `seawall worker` answers in its place."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from backends.texts import evidence
from backends.workers.load_failure import ADVICE, Cause

MAX_LINES = 20


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """`progress` of its load (0 to 1), why it cannot be loaded, and its last lines, which are for operators only."""

    progress: float | None = None
    cause: Cause | None = None
    last_lines: tuple[str, ...] = ()

    @property
    def loading(self) -> str:
        """How far it is, fit for anyone's eyes."""
        return "loading its model" if self.progress is None else f"loading its model, {self.progress:.0%} done"

    @property
    def failed(self) -> str:
        """Why it is lost and what to do, fit for anyone's eyes."""
        told = "its model cannot be loaded"
        return told if self.cause is None else f"{told}: {self.cause.value}. {ADVICE[self.cause]}"


def device_failed(body: bytes) -> bool:
    """Whether a health answer says that a GPU of the worker failed. Believes nothing: never raises."""
    try:
        return bool(orjson.loads(body)["error"]["type"] == "device_failed")
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return False


def worker_report(body: bytes) -> WorkerReport:
    """The report in an error's body; an empty one where there is none. Believes nothing: never raises."""
    try:
        worker = orjson.loads(body)["error"]["worker"]
        progress, cause, lines = worker["progress"], worker["cause"], worker["last_lines"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return WorkerReport()
    lines = lines if isinstance(lines, list) else []
    return WorkerReport(
        progress=min(1.0, max(0.0, progress)) if isinstance(progress, int | float) else None,
        cause=Cause(cause) if cause in list(Cause) else None,
        last_lines=tuple(evidence(line) for line in lines[-MAX_LINES:] if isinstance(line, str)),
    )
