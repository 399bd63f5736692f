"""What travels along the request's way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.errors.render import Rendering, rendering_for
from gateway.errors.taxonomy import FailedAttempt, GatewayError
from gateway.http.connection import ClientConnection
from gateway.http.message import Request
from gateway.identity import ApiKey
from gateway.validation.facts import Facts
from policies.outcome import Failure

if TYPE_CHECKING:
    from backends.dialect import Usage
    from gateway.runtime import Route, Runtime


@dataclass(slots=True)
class AttemptRecord:
    """One attempt as operators see it. `failure` is None for one that answered."""

    backend: str
    model: str
    number: int
    why: str
    started: float
    fallback: bool
    ms: float = 0.0
    failure: Failure | None = None

    def failed(self) -> FailedAttempt:
        """The attempt as the client may see it; only for one that failed."""
        assert self.failure is not None
        return FailedAttempt(self.backend, self.failure, self.ms, self.fallback)


class RequestContext:
    """One request on its way. Times are loop time in seconds; `backend_time` is what was spent waiting for others."""

    __slots__ = (
        "api_path",
        "attempts",
        "backend_time",
        "client",
        "correlation_id",
        "deadline",
        "deadline_is_clients",
        "degraded",
        "error",
        "facts",
        "first_token_at",
        "key",
        "lines",
        "method",
        "native",
        "released",
        "rendering",
        "request",
        "route",
        "runtime",
        "status",
        "usage",
        "warning",
    )

    def __init__(self, request: Request, client: ClientConnection, correlation_id: str, runtime: Runtime) -> None:
        self.request = request
        self.client = client
        self.correlation_id = correlation_id
        self.runtime = runtime
        self.rendering: Rendering = rendering_for(request.path, request.header(b"accept"))
        self.api_path = request.path
        self.method = request.method
        self.key: ApiKey | None = None
        self.facts: Facts = Facts(request.body)
        self.native: dict[str, object] | None = None
        self.route: Route | None = None
        self.deadline = float("inf")
        self.deadline_is_clients = False
        self.attempts: list[AttemptRecord] = []
        self.backend_time = 0.0
        self.first_token_at = 0.0
        self.lines = b""
        self.status = 0
        self.error: GatewayError | None = None
        self.usage: Usage | None = None
        self.warning: str | None = None
        self.degraded: str | None = None
        self.released = False

    @property
    def answered_by(self) -> AttemptRecord | None:
        """The attempt that the client's answer comes from, or None."""
        return self.attempts[-1] if self.attempts and self.attempts[-1].failure is None else None
