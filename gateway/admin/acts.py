"""What operators may do to a backend, and the trail of what they did.

`perform` changes this process alone and needs no request, so that one process can pass an act on to others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

from gateway.admin.access import Actor
from gateway.endpoint import Endpoint, Service
from gateway.errors.render import iso_timestamp
from gateway.errors.taxonomy import GatewayError
from policies.outcome import ErrorKind

#: Acts kept for the page.
_KEPT = 100
_REASON_LIMIT = 200


class Verb(StrEnum):
    """The acts upon a backend."""

    DRAIN = "drain"
    EJECT = "eject"
    RESTORE = "restore"
    OPEN_BREAKER = "breaker/open"
    RESET_BREAKER = "breaker/reset"


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one act. `actor` is whom it was let in for, `detail` what else there is to say."""

    at: float
    verb: str
    backend: str | None
    outcome: str
    actor: Actor
    reason: str = ""
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"at": iso_timestamp(self.at)}


def perform(endpoints: Mapping[str, Endpoint], verb: Verb, backend: str, now: float) -> dict[str, Any]:
    """Does it; gives the endpoint's new state. `now` is loop time. Raises GatewayError for an unknown backend."""
    endpoint = endpoints.get(backend)
    if endpoint is None:
        close = get_close_matches(backend, endpoints, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        message = f"There is no backend of this name.{hint}"
        raise GatewayError(ErrorKind.INVALID_INPUT, message, status=404, code="unknown_backend")
    before = endpoint.service, endpoint.breaker.state(now), endpoint.breaker.forced
    match verb:
        case Verb.DRAIN:
            endpoint.set_service(Service.DRAINING, now)
        case Verb.EJECT:
            endpoint.set_service(Service.EJECTED, now)
        case Verb.RESTORE:
            endpoint.set_service(Service.ACTIVE, now)
        case Verb.OPEN_BREAKER:
            endpoint.breaker.force_open(now)
        case Verb.RESET_BREAKER:
            endpoint.breaker.reset(now)
    changed = before != (endpoint.service, endpoint.breaker.state(now), endpoint.breaker.forced)
    return {"backend": backend, "act": verb.value, "changed": changed, "endpoint": endpoint.snapshot(now)}


class Audit:
    """The last acts, each also a line in the log: who, what, to what, why, and what became of it."""

    def __init__(self, log: Any, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._acts: deque[Done] = deque(maxlen=_KEPT)

    def record(
        self,
        actor: Actor,
        verb: str,
        backend: str | None,
        outcome: str,
        *,
        reason: str = "",
        detail: str = "",
        **more: Any,
    ) -> None:
        """Books an act; `more` goes into the log line only."""
        done = Done(self._clock(), verb, backend, outcome, actor, reason[:_REASON_LIMIT], detail[:500])
        self._acts.appendleft(done)
        self._line(self._log.warning, done, more)

    def refused(self, peer: str | None, verb: str, backend: str | None, why: str, **more: Any) -> None:
        """Books an act that nobody was let in for: in the log only, as the trail is not for strangers to fill."""
        done = Done(self._clock(), verb, backend, "refused", Actor("nobody", peer or ""), detail=why)
        self._line(self._log.warning, done, more)

    def latest(self, limit: int = 20) -> list[dict[str, Any]]:
        """Newest first."""
        return [done.to_dict() for done, _ in zip(self._acts, range(limit), strict=False)]

    def _line(self, write: Callable[..., None], done: Done, more: Mapping[str, Any]) -> None:
        write(
            "operator_act",
            act=done.verb,
            backend=done.backend,
            outcome=done.outcome,
            by=done.actor.by,
            peer=done.actor.peer,
            operator=done.actor.name or None,
            reason=done.reason or None,
            detail=done.detail or None,
            **more,
        )
