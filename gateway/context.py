"""What travels along the request's way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from gateway.errors.render import Rendering, rendering_for
from gateway.errors.taxonomy import FailedAttempt, GatewayError
from gateway.http.connection import ClientConnection
from gateway.http.message import Request
from gateway.identity import ApiKey, identity_lines
from gateway.validation.facts import Facts
from gateway.validation.schemas import MAX_MODEL
from policies.outcome import ErrorKind, Failure

if TYPE_CHECKING:
    from backends.dialect import Usage
    from gateway.attempt import Attempt
    from gateway.key_limits import Grant
    from gateway.observe.metrics import RouteMetrics
    from gateway.observe.spans import Trace
    from gateway.runtime import Route, Runtime
    from policies.admission import Waiting


#: No fields of a body.
NOTHING: Mapping[str, Any] = {}
_MAX_QUERY_FIELDS = 64
#: Seconds by which a timer may be early.
_EARLY = 0.002
#: What is known of a body that was not read yet.
_UNREAD = Facts(b"")


class AttemptRecord:
    """One attempt as operators see it. `failure` is None for one that answered, and for one that was `beaten`: another
    one answered first. `tokens` came of it, and `warning` says in what it was made smaller, as far as is known.
    `continued`: it broke, and another one went on from where it was. `attempt` is None once the request is booked."""

    __slots__ = (
        "attempt",
        "backend",
        "beaten",
        "continued",
        "failure",
        "fallback",
        "model",
        "ms",
        "number",
        "started",
        "tokens",
        "warning",
        "why",
    )

    def __init__(self, backend: str, model: str, number: int, why: str, started: float, attempt: Attempt) -> None:
        self.backend = backend
        self.model = model
        self.number = number
        self.why = why
        self.started = started
        self.attempt: Attempt | None = attempt
        attempt.record = self
        self.fallback = attempt.candidate.fallback
        self.ms = 0.0
        self.failure: Failure | None = None
        self.beaten = False
        self.continued = False
        self.tokens = 0
        self.warning: str | None = None

    def failed(self) -> FailedAttempt:
        """The attempt as the client may see it; only for one that failed."""
        assert self.failure is not None
        return FailedAttempt(self.backend, self.failure, self.ms, self.fallback)

    def forget(self) -> None:
        """Lets go of all that only matters while the request is under way."""
        if self.attempt is not None:
            self.attempt.forget()
            self.attempt = None

    @property
    def error(self) -> ErrorKind | None:
        return self.failure.kind if self.failure is not None else None

    def to_dict(self, began: float) -> dict[str, Any]:
        """As `/requests/{correlation_id}` shows it; the request came at `began` (loop time)."""
        failure = self.failure
        wasted = (failure is not None and not self.continued) or self.beaten
        answered = None if self.beaten else 200
        return {
            "backend": self.backend,
            "model": self.model,
            "why": self.why,
            "outcome": "beaten" if self.beaten else "ok" if failure is None else failure.kind.value,
            "status": answered if failure is None else failure.status,
            "at_ms": round((self.started - began) * 1000, 3),
            "ms": round(self.ms, 3),
            "fallback": self.fallback,
            "tokens": self.tokens,
            "tokens_wasted": self.tokens if wasted else 0,
        }


class RequestContext:
    """One request on its way. Times are loop time in seconds; `backend_time` is what was spent waiting for others.

    `identity_lines` are the header lines that name it, to backends and in every answer; `own_lines` what backends get
    beside the client's `lines`. `is_native`: it came in native form and is translated: `api_path` is not its own path.
    """

    __slots__ = (
        "_bodies_removed",
        "_body_fields",
        "_reduced",
        "api_path",
        "attempts",
        "backend_time",
        "backend_until",
        "budget_exhausted",
        "client",
        "correlation_id",
        "deadline",
        "deadline_is_clients",
        "deadline_is_told",
        "degraded",
        "error",
        "facts",
        "first_token_at",
        "grant",
        "identity_lines",
        "is_native",
        "key",
        "lines",
        "model",
        "numbers",
        "own_lines",
        "place",
        "request",
        "route",
        "runtime",
        "status",
        "trace",
        "usage",
        "warning",
    )

    def __init__(self, request: Request, client: ClientConnection, correlation_id: str, runtime: Runtime) -> None:
        self.request = request
        self.client = client
        self.correlation_id = correlation_id
        self.runtime = runtime
        self.api_path = request.path
        self.is_native = False
        self.key: ApiKey | None = None
        self.facts = _UNREAD
        self._body_fields = self._reduced = NOTHING
        self._bodies_removed: tuple[str, ...] = ()
        self.route: Route | None = None
        self.model = ""
        self.deadline = float("inf")
        self.deadline_is_clients = False
        self.deadline_is_told = False  # to backends: the client has named a time, if only one that is too long
        self.grant: Grant | None = None
        self.attempts: list[AttemptRecord] = []
        self.budget_exhausted = False
        self.place: Waiting[Any] | None = None  # the one that it had in its route's waiting room
        self.backend_time = 0.0
        self.backend_until = 0.0
        self.first_token_at = 0.0
        self.identity_lines = identity_lines(correlation_id)
        self.lines = self.own_lines = b""
        self.status = 0
        self.error: GatewayError | None = None
        self.numbers: RouteMetrics | None = None  # those of its route
        self.usage: Usage | None = None
        self.warning: str | None = None
        self.degraded: str | None = None
        self.trace: Trace | None = None  # where tracing is on

    @property
    def rendering(self) -> Rendering:
        """The shape of an error for this client."""
        return rendering_for(self.request.path, self.request.header(b"accept"))

    @property
    def bytes_out(self) -> int:
        """Bytes of the answer's body so far. The connection may be busy with the next request's once that is out."""
        request = self.request
        return request.bytes_out or (self.client.bytes_out if self.client.serves(request) else 0)

    # -- what goes to a backend ----------------------------------------------------------------------------------------

    def rewrite(self, fields: dict[str, Any], removed: tuple[str, ...]) -> None:
        """Has every backend get the body with these fields set and those removed."""
        self._body_fields = fields
        self._bodies_removed = removed

    def reduce(self, fields: Mapping[str, Any]) -> None:
        """Has every backend get the body with these amounts in place of the client's."""
        self._reduced = {**self._reduced, **fields}

    def sent(self, name: str) -> Any:
        """A top-level field as a backend gets it, None where it is missing."""
        for fields in (self._reduced, self._body_fields):
            if name in fields:
                return fields[name]
        return None if name in self._bodies_removed else self.facts.field(name)

    def body_for(self, model: str | None, fewer: Mapping[str, Any] = NOTHING) -> bytes:
        """The body for a backend that knows the model under this name (None: the client's), with `fewer` in it."""
        if not (self.is_native or self._reduced or fewer):
            return self.facts.body if model is None else self.facts.with_model(model)
        fields = {**self._body_fields, **self._reduced, **fewer}
        if model is not None or self.is_native:
            fields["model"] = model or self.model
        return self.facts.with_fields(fields, self._bodies_removed)

    def target(self) -> bytes:
        """The request target for a backend, without the endpoint's base path."""
        return self.request.head.target if not self.is_native else self.api_path.encode("ascii")

    def query_model(self) -> str | None:
        """The model named in the query string, for requests without a body that could name it. Raises GatewayError."""
        if not self.request.query:
            return None
        try:
            values = parse_qs(self.request.query, max_num_fields=_MAX_QUERY_FIELDS).get("model")
        except ValueError:
            message = f"The query of this request has more than {_MAX_QUERY_FIELDS} fields."
            raise GatewayError(ErrorKind.INVALID_INPUT, message) from None
        name = values[0] if values else None
        if name is not None and not (len(name) <= MAX_MODEL and name.isprintable()):
            text = f"must be at most {MAX_MODEL} characters long, none of them a control character"
            raise GatewayError.validation({"model": [text]})
        return name

    def affinity(self, balance: str) -> bytes | None:
        """What the request has in common with others that should meet the same endpoint, under such balancing."""
        if balance == "session":
            return self.request.headers.get(b"x-session-id")
        return self.facts.prefix() if balance == "prefix" else None

    def waited(self, since: float, until: float) -> None:
        """Notes a time in which others were waited for; what overlaps an earlier one counts once."""
        if since < self.backend_until:
            since = self.backend_until
        if until > since:
            self.backend_time += until - since
            self.backend_until = until

    # -- attempts ------------------------------------------------------------------------------------------------------

    def total_failure(self, now: float) -> GatewayError:
        """What the failed attempts come to, or the client's own deadline where that has ended them.

        Raises ValueError if there are none.
        """
        failed = self.failed_attempts()
        if self.deadline_is_clients and now >= self.deadline - _EARLY:
            return GatewayError(ErrorKind.DEADLINE_EXCEEDED, attempts=failed)
        return GatewayError.from_failures(failed)

    def failed_attempts(self) -> list[FailedAttempt]:
        """The attempts that failed, in order, as the client may see them."""
        return [record.failed() for record in self.attempts if record.failure is not None]

    def forget(self) -> None:
        """The request is over and booked: nothing of it waits for the garbage collector."""
        for record in self.attempts:
            record.forget()
        if self.error is not None:
            self.error.__traceback__ = self.error.__context__ = None  # whose frames hold this

    @property
    def answered_by(self) -> AttemptRecord | None:
        """The attempt that the client's answer comes from, or None."""
        for record in reversed(self.attempts):
            if record.failure is None and not record.beaten:
                return record
        return None
