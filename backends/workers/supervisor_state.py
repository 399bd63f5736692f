"""What a supervised worker is to run, and where it is in its life."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from backends.workers.load_failure import LoadFailure
from backends.workers.supervisor_policy import RestartSettings
from backends.workers.supervisor_probes import Probe
from policies.outcome import ErrorKind


class WorkerState(StrEnum):
    """Where a worker is in its life."""

    STARTING = "starting"  # its process is being made
    LOADING = "loading"  # the process runs and is not ready yet
    READY = "ready"
    UNHEALTHY = "unhealthy"  # it was ready, and its last check failed
    BACKOFF = "backoff"  # it has ended and waits for its next start
    FAILED = "failed"  # given up: not started again
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """A server to run. Times in seconds; `env` is added to the supervisor's own environment.

    Ready is a 200 from `health_url` (plain HTTP) within `ready_timeout`. `health_failures` failed checks in a row, or
    `liveness_failures` failed `liveness` probes (generate one token, say), mean a hung server, which is restarted: be
    generous, a busy server is slow to answer. `grace` is from SIGTERM to SIGKILL.

    `stand_in`: while the server is down, the supervisor answers on its port that the model is loading. `shares_port`:
    the server listens with SO_REUSEPORT, so that the supervisor can do so until the very moment the server listens.
    """

    name: str
    argv: Sequence[str]
    health_url: str
    env: Mapping[str, str] = field(default_factory=dict)
    stand_in: bool = False
    shares_port: bool = False
    ready_timeout: float = 900.0
    ready_poll: float = 0.5
    health_interval: float = 5.0
    health_timeout: float = 10.0
    health_failures: int = 6
    liveness: Probe | None = None
    liveness_interval: float = 30.0
    liveness_timeout: float = 60.0
    liveness_failures: int = 2
    grace: float = 15.0
    restart: RestartSettings = field(default_factory=RestartSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSnapshot:
    """A worker at one moment; times in seconds.

    `uptime` since its process started; `load_time` that its last complete load took; `progress` (0 to 1) of the load,
    where its output tells one; `exit_code` of the last process that ended; `failure` says why the last start came to
    nothing; `error_age` since the last error; `next_start` until the next start.
    """

    name: str
    state: WorkerState
    pid: int | None
    restarts: int
    uptime: float
    load_time: float | None
    progress: float | None
    last_error: str | None
    error_age: float | None
    failure: LoadFailure | None
    exit_code: int | None
    next_start: float | None
    last_lines: tuple[str, ...]

    @property
    def error_type(self) -> ErrorKind | None:
        """What a request sent to this worker now would meet: None when it is ready, else named as the gateway does."""
        return _ERROR_TYPES.get(self.state, ErrorKind.BACKEND_UNREACHABLE)


_ERROR_TYPES: Mapping[WorkerState, ErrorKind | None] = {
    WorkerState.READY: None,
    WorkerState.STARTING: ErrorKind.MODEL_LOADING,
    WorkerState.LOADING: ErrorKind.MODEL_LOADING,
    WorkerState.BACKOFF: ErrorKind.MODEL_LOADING,
    WorkerState.FAILED: ErrorKind.MODEL_LOADING_FAILED,
}

OnLine = Callable[[str, str], None]
OnChange = Callable[[WorkerSnapshot], None]
