"""What the supervisor tells of its workers: as JSON, as metrics, and as the answer of one that is down."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from backends.texts import evidence
from backends.workers.load_failure import Cause
from backends.workers.supervisor_state import WorkerSnapshot, WorkerState
from policies.outcome import ErrorKind

#: Lines of a worker's log that its answer carries; its own log has them all.
TOLD_LINES = 20
#: Seconds after which a request may find it ready. Short: whoever waits longer is not told when it is ready sooner.
RETRY_AFTER = 2

_PLAIN = {
    WorkerState.STARTING: "is being started",
    WorkerState.LOADING: "is loading its model",
    WorkerState.BACKOFF: "has ended and will be started again",
    WorkerState.FAILED: "could not be started and has been given up",
    WorkerState.STOPPING: "is being stopped",
    WorkerState.STOPPED: "is stopped",
    WorkerState.READY: "is ready",
    WorkerState.UNHEALTHY: "does not pass its checks",
}


def as_json(worker: WorkerSnapshot) -> dict[str, Any]:
    """Everything known of a worker; its lines without credentials."""
    failure = worker.failure
    return {
        "name": worker.name,
        "state": worker.state.value,
        "error_type": worker.error_type.value if worker.error_type else None,
        "pid": worker.pid,
        "restarts": worker.restarts,
        "uptime_seconds": round(worker.uptime, 3),
        "load_seconds": _rounded(worker.load_time),
        "progress": worker.progress,
        "next_start_seconds": _rounded(worker.next_start),
        "last_error": None if worker.last_error is None else evidence(worker.last_error),
        "last_error_seconds_ago": _rounded(worker.error_age),
        "cause": failure.cause.value if failure else None,
        "advice": failure.advice if failure else None,
        "exit_code": worker.exit_code,
        "last_lines": [evidence(line) for line in worker.last_lines[-TOLD_LINES:]],
    }


def answer_in_place(worker: WorkerSnapshot) -> dict[str, Any]:
    """The body of the 503 that a request gets while the server is down, in OpenAI's shape."""
    lost = worker.error_type is ErrorKind.MODEL_LOADING_FAILED
    kind = ErrorKind.MODEL_LOADING_FAILED if lost else ErrorKind.MODEL_LOADING
    error = {"message": _sentence(worker), "type": kind.value, "param": None, "code": 503, "worker": as_json(worker)}
    return {"error": error}


def _sentence(worker: WorkerSnapshot) -> str:
    """`Worker llama is loading its model: 50 %, 12 s so far.`"""
    facts = []
    if worker.progress is not None:
        facts.append(f"{worker.progress:.0%}")
    if worker.state is WorkerState.LOADING:
        facts.append(f"{worker.uptime:.0f} s so far")
        if worker.load_time is not None:
            facts.append(f"the last time it took {worker.load_time:.0f} s")
    if worker.next_start is not None:
        facts.append(f"in {worker.next_start:.0f} s")
    if worker.failure is not None:
        facts.append(f"{worker.failure.cause.value}. {worker.failure.advice}")
    told = f"Worker {worker.name} {_PLAIN[worker.state]}"
    return (f"{told}: {', '.join(facts)}" if facts else told).rstrip(".") + "."


def exposition(workers: Iterable[WorkerSnapshot]) -> str:
    """All metrics in Prometheus' text format, each with the label `worker`."""
    every = list(workers)
    now = time.time()
    lines: list[str] = []

    def family(name: str, kind: str, meaning: str, samples: Iterable[tuple[WorkerSnapshot, str, float | None]]) -> None:
        lines.extend([f"# HELP seawall_worker_{name} {meaning}", f"# TYPE seawall_worker_{name} {kind}"])
        for worker, labels, value in samples:
            if value is not None:
                lines.append(f'seawall_worker_{name}{{worker="{_escaped(worker.name)}"{labels}}} {float(value)}')

    family("up", "gauge", "1 while the worker is ready.", ((w, "", w.state is WorkerState.READY) for w in every))
    family(
        "state",
        "gauge",
        "1 for the state that the worker is in.",
        ((w, f',state="{state.value}"', w.state is state) for w in every for state in WorkerState),
    )
    family("restarts_total", "counter", "Times that it was started again.", ((w, "", w.restarts) for w in every))
    family("uptime_seconds", "gauge", "Since its process started.", ((w, "", w.uptime) for w in every))
    family("load_seconds", "gauge", "From its last start until it was ready.", ((w, "", w.load_time) for w in every))
    family("load_progress_ratio", "gauge", "Of the load under way, as it says.", ((w, "", w.progress) for w in every))
    family(
        "last_error_timestamp_seconds",
        "gauge",
        "Unix time of its last error.",
        ((w, "", None if w.error_age is None else now - w.error_age) for w in every),
    )
    family(
        "load_failure",
        "gauge",
        "1 for the cause for which its last start failed.",
        (
            (w, f',cause="{cause.value}"', w.failure is not None and w.failure.cause is cause)
            for w in every
            for cause in Cause
        ),
    )
    return "\n".join(lines) + "\n"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
