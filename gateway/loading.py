"""What a request is told when checks have found all servers of its model down: loading, asleep, not loadable, gone."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.endpoint import Endpoint
from gateway.errors.taxonomy import GatewayError
from gateway.health.prober import ProbeState
from policies.outcome import ErrorKind

#: Said where none is up and one need only be woken. Nobody can say when: `Retry-After` is the kind's own.
_ASLEEP = (
    "The servers of this model are asleep, and none is awake. Have its operator wake one (vLLM: POST /wake_up), or use "
    "another model; else try again later."
)


def down(endpoints: Iterable[Endpoint]) -> GatewayError | None:
    """The error, where the endpoints' state is the reason: one that loads will serve, one that sleeps once it is woken,
    and only if all are given up is that final.

    None where that is not the reason, or an endpoint is well as far as its probes tell.
    """
    every = list(endpoints)
    if any(endpoint.healthy for endpoint in every):
        return None
    states = {endpoint.state for endpoint in every}
    if ProbeState.LOADING in states:
        return GatewayError(ErrorKind.MODEL_LOADING)
    if ProbeState.ASLEEP in states:
        return GatewayError(ErrorKind.MODEL_OVERLOADED, _ASLEEP)
    if given_up(states):
        return GatewayError(ErrorKind.MODEL_LOADING_FAILED)
    return GatewayError(ErrorKind.BACKEND_UNREACHABLE) if ProbeState.UNHEALTHY in states else None


def given_up(states: Iterable[str]) -> bool:
    """Whether no server of these states comes back by itself."""
    return set(states) == {ProbeState.FAILED}
