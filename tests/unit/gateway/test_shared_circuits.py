"""What a replica tells of its circuits: each change once, however many there are, and what is open again and again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from gateway.key_limits import KeyLimits
from gateway.state.local import IDLE, MOST, Replica
from policies.breaker import BreakerSettings, CircuitBreaker, Verdict

SETTINGS = BreakerSettings(
    window=30,
    min_requests=10,
    failure_ratio=0.5,
    consecutive_failures=1,
    slow_call=None,
    open_for=60,
    max_open_for=300,
    half_open_probes=1,
)


class OneEndpoint:
    """What the exchange reads of an endpoint."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.config = SimpleNamespace(url=f"http://{name}")
        self.breaker = CircuitBreaker(SETTINGS, lambda: 0.5)


def runtime(count: int) -> Any:
    """As many endpoints, each with a circuit; no routes and no keys."""
    endpoints = {f"e{n}": OneEndpoint(f"e{n}") for n in range(count)}
    return SimpleNamespace(endpoints=endpoints, routes=SimpleNamespace(routes=[]), key_limits=KeyLimits([], None))


def open_all(made: Any, now: float) -> None:
    for endpoint in made.endpoints.values():
        permit = endpoint.breaker.acquire(now)
        assert permit is not None
        endpoint.breaker.record(permit, Verdict.FAILURE, 0.1, now)


def test_more_changes_than_one_exchange_holds_follow_in_the_next() -> None:
    made, replica = runtime(MOST + 200), Replica()
    open_all(made, 1.0)
    told = [replica.collect(made, 1.0 + number / 5)["circuits"] for number in range(2)]
    changed = [[one["name"] for one in circuits if one["changed"]] for circuits in told]
    assert [len(names) for names in changed] == [MOST, 200]
    assert len({name for names in changed for name in names}) == MOST + 200


def test_open_circuits_are_told_again_in_turns_for_a_store_that_has_forgotten() -> None:
    made, replica = runtime(3 * IDLE), Replica()
    open_all(made, 1.0)
    replica.collect(made, 1.0)
    again = [replica.collect(made, 1.0 + number / 5)["circuits"] for number in range(1, 4)]
    assert [len(circuits) for circuits in again] == [IDLE] * 3
    assert not any(one["changed"] for circuits in again for one in circuits)
    assert len({one["name"] for circuits in again for one in circuits}) == 3 * IDLE


def test_a_change_that_the_store_did_not_hear_is_told_again() -> None:
    made, replica = runtime(3), Replica()
    open_all(made, 1.0)
    first = replica.collect(made, 1.0)["circuits"]
    replica.alone(made, 1.1)
    assert replica.collect(made, 1.2)["circuits"] == [{**one, "left": one["left"] - 200} for one in first]
