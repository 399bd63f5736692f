"""Supervised workers, as the supervisor would describe them."""

from __future__ import annotations

from backends.workers.supervisor_state import WorkerSnapshot, WorkerState


def snapshot(state: WorkerState, **facts: object) -> WorkerSnapshot:
    """A worker in a state, of which nothing else is known but `facts`."""
    values: dict[str, object] = {
        "name": "w",
        "state": state,
        "pid": None,
        "restarts": 0,
        "uptime": 3.0,
        "load_time": None,
        "progress": None,
        "last_error": None,
        "error_age": None,
        "failure": None,
        "exit_code": None,
        "next_start": None,
        "last_lines": (),
    }
    return WorkerSnapshot(**values | facts)  # type: ignore[arg-type]
