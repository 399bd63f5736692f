"""One replica's side of the exchange: what it tells of itself, and what it makes of the others' numbers.

No I/O; `now` is loop time in seconds. Names are hashed, so that neither keys nor hosts stand in a shared store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from policies.breaker import SavedBreaker, State

if TYPE_CHECKING:
    from gateway.endpoint import Endpoint
    from gateway.runtime import Runtime
    from policies.ratelimit import RateLimit

T = TypeVar("T")

#: Entries of one kind in one exchange; of more, the others follow in the next.
MOST = 500
#: Of those entries that this replica does not use now, and only asks about.
IDLE = 50
#: Seconds before the end of a circuit's open time at which it is settled who probes.
_DUE = 0.6
#: Seconds that others' open circuits are held while one replica probes, renewed with each exchange.
_HOLD = 0.6
#: Seconds after which a replica without a request to probe with leaves it to others, and for how long.
_UNUSED = 2.0


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


class Replica:
    """The bookkeeping between exchanges."""

    def __init__(self) -> None:
        self.replicas = 1
        self._revision = 0
        self._circuits: dict[str, _Circuit] = {}
        self._sent: dict[str, float] = {}  # units of each rate limit that the store knows of
        self._unsettled: dict[str, float] = {}  # what `_sent` was before the exchange under way
        self._told: list[tuple[_Circuit, str, int]] = []  # circuits in the exchange under way, as they were before
        self._turn = 0

    # -- telling -------------------------------------------------------------------------------------------------------

    def collect(self, runtime: Runtime, now: float) -> dict[str, Any]:
        """What the store is told, as JSON values.

        Circuits: those not closed, and changes. Leases: circuits that are due. Gauges: this replica's own numbers, null
        where it only asks. Rates: units taken since the last time, milliseconds for one of them, and milliseconds until
        the limit is whole again by what is known here, for a store that has forgotten.
        """
        self._turn += 1
        self._told = []
        self._follow(runtime)
        circuits, leases = [], []
        for name, circuit in self._circuits.items():
            told = self._circuit(name, circuit, now)
            if told is not None:
                circuits.append(told)
            if self._wants_lease(circuit, now):
                leases.append(name)
        every = list(self._gauges(runtime))
        gauges = dict(self._turns([one for one in every if one[1] is not None], MOST))
        gauges |= dict(self._turns([one for one in every if one[1] is None], IDLE))
        gauges["replicas"] = 1.0
        limits = list(self._rates(runtime, now))
        rates = self._turns([(name, limit) for name, used, limit in limits if used is not None], MOST)
        rates += self._turns([(name, limit) for name, used, limit in limits if used is None], IDLE)
        self._unsettled = {}
        return {
            "revision": self._revision,
            "circuits": circuits[:MOST],
            "leases": leases[:MOST],
            "gauges": gauges,
            "rates": {name: self._rate(name, limit, now) for name, limit in rates},
        }

    def _follow(self, runtime: Runtime) -> None:
        """Keeps the circuits of endpoints that are still there."""
        known = {circuit.endpoint: (name, circuit) for name, circuit in self._circuits.items()}
        self._circuits = {}
        for endpoint in runtime.endpoints.values():
            entry = known.get(endpoint)
            name, circuit = entry or (hashed("circuit", endpoint.name, endpoint.config.url), _Circuit(endpoint))
            self._circuits[name] = circuit

    def _circuit(self, name: str, circuit: _Circuit, now: float) -> dict[str, Any] | None:
        saved = circuit.endpoint.breaker.export(now)
        if saved.forced or saved.state == State.HALF_OPEN.value:
            return None  # an operator's act is for the gateway that was asked; a probe's result comes
        changed = saved.state != circuit.state or (saved.state == State.OPEN.value and saved.streak != circuit.streak)
        if changed:
            self._told.append((circuit, circuit.state, circuit.streak))
        circuit.state, circuit.streak = saved.state, saved.streak
        if not changed and saved.state == State.CLOSED.value:
            return None
        return {
            "name": name,
            "state": saved.state,
            "left": round(saved.remaining * 1000),
            "streak": saved.streak,
            "sequence": circuit.sequence,
            "changed": changed,
        }

    def _wants_lease(self, circuit: _Circuit, now: float) -> bool:
        breaker = circuit.endpoint.breaker
        saved = breaker.export(now)
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

    def _gauges(self, runtime: Runtime) -> Iterator[tuple[str, float | None]]:
        for route in runtime.routes.routes:
            yield hashed("budget", route.name), round(route.budget.own, 3) or None
        for key, in_flight in runtime.key_limits.concurrencies():
            yield hashed("concurrency", key), float(in_flight) or None

    def _rates(self, runtime: Runtime, now: float) -> Iterator[tuple[str, RateLimit | None, RateLimit]]:
        for key, unit, limit in runtime.key_limits.rates():
            name = hashed("rate", key, unit, str(limit.limit))
            used = limit.charged != self._sent.get(name, 0.0) or limit.quota(now).reset > 0
            yield name, limit if used else None, limit

    def _rate(self, name: str, limit: RateLimit, now: float) -> list[float]:
        before = self._sent.get(name, 0.0)
        self._unsettled[name] = before
        self._sent[name] = limit.charged
        taken = max(-limit.limit, min(limit.charged - before, limit.limit))
        return [round(taken, 3), 60_000 / limit.limit, round(limit.quota(now).reset * 1000, 3)]

    def _turns(self, entries: list[T], most: int) -> list[T]:
        """At most so many, others the next time."""
        if len(entries) <= most:
            return entries
        start = self._turn * most % len(entries)
        return (entries[start:] + entries[:start])[:most]

    # -- hearing -------------------------------------------------------------------------------------------------------

    def apply(self, runtime: Runtime, answer: Mapping[str, Any], now: float) -> None:
        """Takes over what the store answered to `collect`."""
        self._unsettled = {}
        self._told = []
        self._revision = int(answer["revision"])
        self.replicas = 1 + int(answer["gauges"]["replicas"][1])
        for entry in answer.get("circuits") or ():
            self._adopt(entry, now)
        for name, ours in answer["leases"].items():
            circuit = self._circuits.get(name)
            if circuit is not None:
                self._leased(circuit, bool(ours), now)
        gauges = answer["gauges"]
        for route in runtime.routes.routes:
            found = gauges.get(hashed("budget", route.name))
            if found is not None:
                route.budget.share(float(found[0]), self.replicas)
        for key, _ in runtime.key_limits.concurrencies():
            found = gauges.get(hashed("concurrency", key))
            if found is not None:
                runtime.key_limits.elsewhere(key, int(found[0]))
        for key, unit, limit in runtime.key_limits.rates():
            name = hashed("rate", key, unit, str(limit.limit))
            left = answer["rates"].get(name)
            if left is not None:  # what was taken while the answer was on its way is not in it
                limit.follow(now, float(left) / 1000, limit.charged - self._sent.get(name, 0.0))

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
        self._sent |= self._unsettled
        for circuit, state, streak in self._told:
            circuit.state, circuit.streak = state, streak
        self._told = []
        self._unsettled = {}
        self.replicas = 1
        for route in runtime.routes.routes:
            route.budget.share(0.0, 1)
        for key, _ in runtime.key_limits.concurrencies():
            runtime.key_limits.elsewhere(key, 0)
