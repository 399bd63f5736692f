"""One replica's side of the exchange: what it tells of itself, and what it makes of the others' numbers.

No I/O; `now` is loop time in seconds. Names are hashed, so that neither keys nor hosts stand in a shared store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from policies.breaker import SavedBreaker, State

if TYPE_CHECKING:
    from gateway.endpoint import Endpoint
    from gateway.runtime import Route, Runtime
    from policies.ratelimit import RateLimit

T = TypeVar("T")

#: Entries of one kind in one exchange; of more, the others follow in the next.
MOST = 500
#: Of those entries that this replica does not use now and only asks about, or that are as they were told.
IDLE = 50
#: Seconds before the end of a circuit's open time at which it is settled who probes.
_DUE = 0.6
#: Seconds that others' open circuits are held while one replica probes, renewed with each exchange.
_HOLD = 0.6
#: Seconds after which a replica without a request to probe with leaves it to others, and for how long.
_UNUSED = 2.0


@lru_cache(maxsize=50_000)
def hashed(*parts: str) -> str:
    """A name as the store sees it."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


@dataclass(slots=True)
class _Circuit:
    endpoint: Endpoint
    state: str = State.CLOSED.value
    streak: int = 0
    sequence: int = 0
    lease_since: float | None = None
    no_lease_until: float = 0.0


def _circuit(name: str, circuit: _Circuit, saved: SavedBreaker, *, changed: bool) -> dict[str, Any]:
    return {
        "name": name,
        "state": saved.state,
        "left": round(saved.remaining * 1000),
        "streak": saved.streak,
        "sequence": circuit.sequence,
        "changed": changed,
    }


class Replica:
    """The bookkeeping between exchanges."""

    def __init__(self) -> None:
        self.replicas = 1
        self._revision = 0
        self._circuits: dict[str, _Circuit] = {}
        self._gauges: dict[str, Route | str] = {}  # what the exchange under way asks about: a route's budget, a key
        self._rates: dict[str, tuple[RateLimit, float]] = {}  # and rate limits, with the units that it tells
        self._told: list[tuple[_Circuit, str, int]] = []  # circuits in the exchange under way, as they were before
        self._turn = 0

    # -- telling -------------------------------------------------------------------------------------------------------

    def collect(self, runtime: Runtime, now: float) -> dict[str, Any]:
        """What the store is told, as JSON values.

        Circuits: changes, and some of those that are open still, for a store that has forgotten. Leases: circuits that
        are due. Gauges: this replica's own numbers, null where it only asks. Rates: units taken since the last time,
        milliseconds for one of them, and milliseconds until the limit is whole again by what is known here, for a store
        that has forgotten.
        """
        self._turn += 1
        self._told = []
        self._follow(runtime)
        changed: list[dict[str, Any]] = []
        open_still: list[dict[str, Any]] = []
        leases = []
        for name, circuit in self._circuits.items():
            saved = circuit.endpoint.breaker.export(now)
            if self._changed(circuit, saved):
                if len(changed) < MOST:
                    self._told.append((circuit, circuit.state, circuit.streak))
                    circuit.state, circuit.streak = saved.state, saved.streak
                    changed.append(_circuit(name, circuit, saved, changed=True))
            elif saved.state == State.OPEN.value and not saved.forced:
                open_still.append(_circuit(name, circuit, saved, changed=False))
            if self._wants_lease(circuit, saved, now):
                leases.append(name)
        return {
            "revision": self._revision,
            "circuits": changed + self._turns(open_still, IDLE),
            "leases": leases[:MOST],
            "gauges": self._tell_gauges(runtime),
            "rates": self._tell_rates(runtime, now),
        }

    def _follow(self, runtime: Runtime) -> None:
        """Keeps the circuits of endpoints that are still there."""
        known = {circuit.endpoint: (name, circuit) for name, circuit in self._circuits.items()}
        self._circuits = {}
        for endpoint in runtime.endpoints.values():
            entry = known.get(endpoint)
            name, circuit = entry or (hashed("circuit", endpoint.name, endpoint.config.url), _Circuit(endpoint))
            self._circuits[name] = circuit

    @staticmethod
    def _changed(circuit: _Circuit, saved: SavedBreaker) -> bool:
        if saved.forced or saved.state == State.HALF_OPEN.value:
            return False  # an operator's act is for the gateway that was asked; a probe's result comes
        return saved.state != circuit.state or (saved.state == State.OPEN.value and saved.streak != circuit.streak)

    def _wants_lease(self, circuit: _Circuit, saved: SavedBreaker, now: float) -> bool:
        breaker = circuit.endpoint.breaker
        due = saved.state == State.HALF_OPEN.value or (saved.state == State.OPEN.value and saved.remaining < _DUE)
        if saved.forced or not due:
            circuit.lease_since = None
            return False
        if now < circuit.no_lease_until:
            return False
        if breaker.snapshot(now).permits_out:
            circuit.lease_since = now
        elif circuit.lease_since is not None and now - circuit.lease_since > _UNUSED + _DUE:
            circuit.lease_since = None
            circuit.no_lease_until = now + _UNUSED
            return False
        return True

    def _tell_gauges(self, runtime: Runtime) -> dict[str, float | None]:
        own: list[tuple[Route | str, float]] = [(route, route.budget.own) for route in runtime.routes.routes]
        own += [(key, float(in_flight)) for key, in_flight in runtime.key_limits.concurrencies()]
        chosen = self._turns([one for one in own if one[1]], MOST) + self._turns(
            [one for one in own if not one[1]], IDLE
        )
        self._gauges = {
            hashed("concurrency", of) if isinstance(of, str) else hashed("budget", of.name): of for of, _ in chosen
        }
        values = [round(value, 3) or None for _, value in chosen]
        return dict(zip(self._gauges, values, strict=True)) | {"replicas": 1.0}

    def _tell_rates(self, runtime: Runtime, now: float) -> dict[str, list[float]]:
        used: list[tuple[str, str, RateLimit]] = []
        idle: list[tuple[str, str, RateLimit]] = []
        for entry in runtime.key_limits.rates():
            (used if entry[2].charged or entry[2].reset(now) > 0 else idle).append(entry)
        told: dict[str, list[float]] = {}
        self._rates = {}
        for key, unit, limit in self._turns(used, MOST) + self._turns(idle, IDLE):
            name, units = hashed("rate", key, unit, str(limit.limit)), limit.charged
            limit.charged = 0.0
            self._rates[name] = limit, units
            bounded = max(-limit.limit, min(units, limit.limit))
            told[name] = [round(bounded, 3), 60_000 / limit.limit, round(limit.reset(now) * 1000, 3)]
        return told

    def _turns(self, entries: list[T], most: int) -> list[T]:
        """At most so many, others the next time."""
        if len(entries) <= most:
            return entries
        start = self._turn * most % len(entries)
        return (entries[start:] + entries[:start])[:most]

    # -- hearing -------------------------------------------------------------------------------------------------------

    def apply(self, runtime: Runtime, answer: Mapping[str, Any], now: float) -> None:
        """Takes over what the store answered to `collect`."""
        self._told = []
        self._revision = int(answer["revision"])
        gauges = answer["gauges"]
        self.replicas = 1 + int(gauges["replicas"][1])
        for entry in answer.get("circuits") or ():
            self._adopt(entry, now)
        for name, ours in answer["leases"].items():
            circuit = self._circuits.get(name)
            if circuit is not None:
                self._leased(circuit, bool(ours), now)
        for name, of in self._gauges.items():
            total = float(gauges[name][0])
            if isinstance(of, str):
                runtime.key_limits.elsewhere(of, int(total))
            else:
                of.budget.share(total, self.replicas)
        for name, (limit, _) in self._rates.items():
            limit.follow(now, float(answer["rates"][name]) / 1000)
        self._rates = {}

    def _adopt(self, entry: Mapping[str, Any], now: float) -> None:
        circuit = self._circuits.get(entry["name"])
        if circuit is None or int(entry["sequence"]) <= circuit.sequence:
            return
        circuit.sequence = int(entry["sequence"])
        breaker = circuit.endpoint.breaker
        state, left = str(entry["state"]), float(entry["left"]) / 1000
        if entry["ours"] or breaker.export(now).forced or (state == State.OPEN.value and left <= 0):
            return
        breaker.restore(SavedBreaker(state, left, int(entry["streak"]), False), now)
        circuit.state, circuit.streak = state, int(entry["streak"])

    def _leased(self, circuit: _Circuit, ours: bool, now: float) -> None:
        if not ours:
            circuit.lease_since = None
            circuit.endpoint.breaker.hold_open(now + _HOLD)
        elif circuit.lease_since is None:
            circuit.lease_since = now

    def alone(self, runtime: Runtime, now: float) -> None:
        """The store does not answer: what the others do counts no more, and what was to be told is told later."""
        for limit, units in self._rates.values():
            limit.charged += units
        self._rates = {}
        for circuit, state, streak in self._told:
            circuit.state, circuit.streak = state, streak
        self._told = []
        self.replicas = 1
        for route in runtime.routes.routes:
            route.budget.share(0.0, 1)
        for key, _ in runtime.key_limits.concurrencies():
            runtime.key_limits.elsewhere(key, 0)
