"""The waiting room when every endpoint is at its limit: bounded, by priority, fair among tenants.

Higher priorities go first; within one, tenants take turns, so that one with a thousand waiting requests does not hold
up one with two. When the room is full, what is shed is the newest request of the tenant with the most waiting in the
lowest priority: the loss falls where it matters least and surprises least.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass
from math import exp
from typing import Generic, TypeVar

T = TypeVar("T")

LOWEST_PRIORITY, HIGHEST_PRIORITY = 0, 9
#: Seconds that the measured service rate looks back on, in essence.
_RATE_WINDOW = 30.0
#: Longest advice given to a client, in seconds.
_MAX_RETRY_AFTER = 60.0


@dataclass(frozen=True, slots=True)
class AdmissionSettings:
    """`admission` of a policy: how many may wait, and how long (seconds)."""

    max_queue: int
    max_wait: float


class Waiting(Generic[T]):
    """One waiting request. `leaves_at` is when it stops waiting (monotonic seconds)."""

    __slots__ = ("item", "leaves_at", "number", "priority", "queued", "since", "tenant")

    def __init__(self, item: T, number: int, priority: int, tenant: str, since: float, leaves_at: float) -> None:
        self.item = item
        self.number = number  # in the order of arrival
        self.priority = priority
        self.tenant = tenant
        self.since = since
        self.leaves_at = leaves_at
        self.queued = True


_Lane = OrderedDict[int, Waiting[T]]  # one tenant's requests in one priority, oldest first


class _Lanes(Generic[T]):
    """The requests of one priority, a lane for each tenant in the order of their turns.

    `by_length` has the tenants that have so many waiting. Of n requests there are at most the square root of 2n
    different lengths, so what is asked of all tenants costs no more than that, and seldom more than a few steps.
    """

    __slots__ = ("by_length", "by_tenant", "waiting")

    def __init__(self) -> None:
        self.by_tenant: OrderedDict[str, _Lane[T]] = OrderedDict()
        self.by_length: dict[int, dict[str, None]] = {}
        self.waiting = 0

    def add(self, entry: Waiting[T]) -> None:
        lane = self.by_tenant.get(entry.tenant)
        if lane is None:
            lane = self.by_tenant[entry.tenant] = OrderedDict()
        lane[entry.number] = entry
        self._grown(entry.tenant, len(lane) - 1, len(lane))
        self.waiting += 1

    def remove(self, entry: Waiting[T]) -> None:
        lane = self.by_tenant[entry.tenant]
        del lane[entry.number]
        self._grown(entry.tenant, len(lane) + 1, len(lane))
        if not lane:
            del self.by_tenant[entry.tenant]
        self.waiting -= 1

    def of(self, tenant: str) -> int:
        """How many of a tenant's wait."""
        return len(self.by_tenant.get(tenant, ()))

    def longest(self) -> _Lane[T]:
        """The lane of the tenant that has the most waiting; there must be one."""
        return self.by_tenant[next(iter(self.by_length[max(self.by_length)]))]

    def ahead_of(self, tenant: str) -> int:
        """How many go before a new one of the tenant: before its n-th, each of the others has had n at most."""
        turns = self.of(tenant) + 1
        return sum(min(length, turns) * len(tenants) for length, tenants in self.by_length.items())

    def _grown(self, tenant: str, before: int, after: int) -> None:
        by_length = self.by_length
        if before:
            tenants = by_length[before]
            del tenants[tenant]
            if not tenants:
                del by_length[before]
        if after:
            by_length.setdefault(after, {})[tenant] = None


class AdmissionQueue(Generic[T]):
    """Every request taken in comes out exactly once: by `next_ready`, `expire` or `cancel`, or shed by `enqueue`."""

    __slots__ = ("_by_end", "_lanes", "_rate", "_serial", "_waiting", "settings")

    def __init__(self, settings: AdmissionSettings) -> None:
        self.settings = settings
        self._lanes: list[_Lanes[T]] = [_Lanes() for _ in range(HIGHEST_PRIORITY + 1)]  # by priority
        self._by_end: list[tuple[float, int, Waiting[T]]] = []  # a heap; may hold some that are out already
        self._waiting = 0
        self._serial = 0
        self._rate = _Rate()

    def __len__(self) -> int:
        return self._waiting

    # -- in ------------------------------------------------------------------------------------------------------------

    def enqueue(
        self, item: T, priority: int, tenant: str, now: float, deadline: float
    ) -> tuple[Waiting[T] | None, Waiting[T] | None]:
        """Lets a request wait until `deadline`, and `max_wait` at most: (its entry, the one shed to make room).

        The entry is None when there is no room for it. Priorities out of range are cut to it.
        """
        priority = min(max(priority, LOWEST_PRIORITY), HIGHEST_PRIORITY)
        shed: Waiting[T] | None = None
        if self._waiting >= self.settings.max_queue:
            shed = self._to_shed(priority, tenant)
            if shed is None:
                return None, None
            self._remove(shed)
        self._serial += 1
        entry = Waiting(item, self._serial, priority, tenant, now, min(deadline, now + self.settings.max_wait))
        self._lanes[priority].add(entry)
        heapq.heappush(self._by_end, (entry.leaves_at, entry.number, entry))
        self._waiting += 1
        return entry, shed

    def refuses(self, priority: int, tenant: str) -> bool:
        """Whether `enqueue` would have no room for such a request. Changes nothing."""
        if self._waiting < self.settings.max_queue:
            return False
        return self._to_shed(min(max(priority, LOWEST_PRIORITY), HIGHEST_PRIORITY), tenant) is None

    # -- out -----------------------------------------------------------------------------------------------------------

    def next_ready(self, now: float) -> Waiting[T] | None:
        """The request whose turn it is; None when there is none. Those whose time is up are left to `expire`."""
        for lanes in reversed(self._lanes):
            for lane in lanes.by_tenant.values():
                for entry in lane.values():
                    if entry.leaves_at > now:
                        lanes.by_tenant.move_to_end(entry.tenant)
                        self._remove(entry)
                        return entry
        return None

    def expire(self, now: float) -> list[Waiting[T]]:
        """Takes out those whose time is up, soonest first."""
        expired = []
        heap = self._by_end
        while heap and (heap[0][0] <= now or not heap[0][2].queued):
            entry = heapq.heappop(heap)[2]
            if entry.queued:
                self._remove(entry)
                expired.append(entry)
        return expired

    def put_back(self, entry: Waiting[T]) -> None:
        """Takes one in again that came out as `next_ready` but could not use what was free: behind all of its kind."""
        lanes = self._lanes[entry.priority]
        lanes.add(entry)
        lanes.by_tenant.move_to_end(entry.tenant)
        heapq.heappush(self._by_end, (entry.leaves_at, entry.number, entry))
        entry.queued = True
        self._waiting += 1

    def take_back(self, entry: Waiting[T]) -> None:
        """Takes one in again that lost what it came out for: ahead of its tenant's others, as it has waited longest.

        Whether there is room or not: it has waited for its turn, and its place may have been given away meanwhile.
        """
        self.put_back(entry)
        lanes = self._lanes[entry.priority].by_tenant
        lanes[entry.tenant].move_to_end(entry.number, last=False)
        lanes.move_to_end(entry.tenant, last=False)

    def cancel(self, entry: Waiting[T]) -> bool:
        """Takes a request out whose client has left; False when it is out already."""
        if not entry.queued:
            return False
        self._remove(entry)
        return True

    def next_expiry(self) -> float | None:
        """When `expire` should be called next, at the latest (monotonic seconds)."""
        return self._by_end[0][0] if self._by_end else None

    # -- how long ------------------------------------------------------------------------------------------------------

    def measure_from(self, now: float) -> None:
        """Begins to measure the service rate anew: from now on there is always someone to be served."""
        self._rate = _Rate(now)

    def served(self, now: float) -> None:
        """A place became free while there was someone to take it: this measures the service rate."""
        self._rate.count(now)

    def wait_estimate(self, now: float, priority: int = LOWEST_PRIORITY, tenant: str | None = None) -> float | None:
        """Seconds that a new request of this priority would wait at the measured rate; None without a measurement.

        Without a tenant, those of the last one in the line.
        """
        rate = self._rate.per_second(now)
        if rate <= 0.0:
            return None
        lowest = min(max(priority, LOWEST_PRIORITY), HIGHEST_PRIORITY)
        own = self._lanes[lowest]
        ahead = sum(lanes.waiting for lanes in self._lanes[lowest + 1 :])
        ahead += own.waiting if tenant is None else own.ahead_of(tenant)
        return (ahead + 1) / rate

    def retry_after(self, now: float) -> float:
        """Advice to a client that is turned away: seconds, 1 to 60."""
        estimate = self.wait_estimate(now)
        if estimate is None:
            estimate = self.settings.max_wait
        return min(max(1.0, estimate), _MAX_RETRY_AFTER)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _to_shed(self, priority: int, tenant: str) -> Waiting[T] | None:
        """The request that has to go for a new one, if there is one that matters less."""
        lowest = next((number for number, lanes in enumerate(self._lanes) if lanes.waiting), None)
        if lowest is None or lowest > priority:  # None: nobody may wait at all
            return None
        lanes = self._lanes[lowest]
        longest = lanes.longest()
        # Among equals only where it makes the shares more even; else the one that came first stays.
        if lowest == priority and len(longest) <= lanes.of(tenant) + 1:
            return None
        return next(reversed(longest.values()))

    def _remove(self, entry: Waiting[T]) -> None:
        entry.queued = False
        self._waiting -= 1
        self._lanes[entry.priority].remove(entry)
        if len(self._by_end) > 2 * self._waiting + 64:  # mostly ones that are out: don't let them pile up
            self._by_end = [item for item in self._by_end if item[2].queued]
            heapq.heapify(self._by_end)


class _Rate:
    """Events per second, older ones counting less and less."""

    __slots__ = ("_at", "_begun", "_count")

    def __init__(self, begun: float | None = None) -> None:
        self._count = 0.0
        self._at = 0.0
        self._begun = begun

    def count(self, now: float) -> None:
        if self._begun is None:
            self._begun = now
        self._decay(now)
        self._count += 1.0

    def per_second(self, now: float) -> float:
        """0 until there is a second to speak of."""
        if self._begun is None or now - self._begun < 1.0:
            return 0.0
        self._decay(now)
        # What a steady rate of 1 would have counted up to by now; less than the whole window at first.
        full = _RATE_WINDOW * (1.0 - exp(-(now - self._begun) / _RATE_WINDOW))
        return self._count / full

    def _decay(self, now: float) -> None:
        if now > self._at:
            self._count *= exp((self._at - now) / _RATE_WINDOW)
            self._at = now
