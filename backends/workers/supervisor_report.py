"""What the supervisor tells of its workers: as JSON, as metrics, and as the answer of one that is down."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from backends.texts import evidence
from backends.workers.labels import escaped
from backends.workers.load_failure import Cause
from backends.workers.supervisor_state import WorkerSnapshot, WorkerState
from policies.outcome import ErrorKind

#: Lines of a worker's log that its answer carries; its own log has them all.
TOLD_LINES = 20
#: Seconds after which a request may find it ready. Short: whoever waits longer is not told when it is ready sooner.
RETRY_AFTER = 2

#: Every metric: its type and meaning.
FAMILIES = {
    "seawall_worker_up": ("gauge", "1 while the worker is ready."),
    "seawall_worker_state": ("gauge", "1 for the state that the worker is in."),
    "seawall_worker_restarts_total": ("counter", "Times that it was started again."),
    "seawall_worker_uptime_seconds": ("gauge", "Since its process started."),
    "seawall_worker_load_seconds": ("gauge", "From its last start until it was ready."),
    "seawall_worker_load_progress_ratio": ("gauge", "Of the load under way, as its output tells."),
    "seawall_worker_last_error_timestamp_seconds": ("gauge", "Unix time of its last error."),
    "seawall_worker_load_failure": ("gauge", "1 for the cause for which its last start failed."),
}

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
    for name, (kind, meaning) in FAMILIES.items():
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
        for worker in every:
            label = f'worker="{escaped(worker.name)}"'
            lines += [f"{name}{{{label}{more}}} {float(value)}" for more, value in _samples(name, worker, now)]
    return "\n".join(lines) + "\n"


def _samples(name: str, worker: WorkerSnapshot, now: float) -> list[tuple[str, float]]:
    """The further labels and the value of each sample of one family."""
    if name == "seawall_worker_state":
        return [(f',state="{state.value}"', worker.state is state) for state in WorkerState]
    if name == "seawall_worker_load_failure":
        cause = worker.failure.cause if worker.failure is not None else None
        return [(f',cause="{each.value}"', each is cause) for each in Cause]
    value = {
        "seawall_worker_up": worker.state is WorkerState.READY,
        "seawall_worker_restarts_total": worker.restarts,
        "seawall_worker_uptime_seconds": worker.uptime,
        "seawall_worker_load_seconds": worker.load_time,
        "seawall_worker_load_progress_ratio": worker.progress,
        "seawall_worker_last_error_timestamp_seconds": None if worker.error_age is None else now - worker.error_age,
    }[name]
    return [] if value is None else [("", value)]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
