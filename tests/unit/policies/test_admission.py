"""The waiting room: order, fairness, what is shed, how long it takes."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from policies.admission import AdmissionQueue, AdmissionSettings, Waiting

FAR = 1e9


def room(max_queue: int = 100, max_wait: float = 10.0) -> AdmissionQueue[str]:
    return AdmissionQueue(AdmissionSettings(max_queue, max_wait))


def fill(queue: AdmissionQueue[str], *requests: str, now: float = 0.0) -> None:
    """Requests such as `5a1`: priority, tenant, number."""
    for request in requests:
        queue.enqueue(request, int(request[0]), request[1], now, FAR)


def drained(queue: AdmissionQueue[str], now: float = 0.0) -> list[str]:
    order = []
    while (entry := queue.next_ready(now)) is not None:
        order.append(entry.item)
    return order


@pytest.mark.parametrize(
    ("requests", "order"),
    [
        ("5a1 5a2 5a3", "5a1 5a2 5a3"),
        ("1a1 9a1 5a1 9a2", "9a1 9a2 5a1 1a1"),
        ("5a1 5a2 5a3 5b1 5b2 5c1", "5a1 5b1 5c1 5a2 5b2 5a3"),
        ("5a1 5a2 9b1 5b1", "9b1 5a1 5b1 5a2"),
    ],
)
def test_by_priority_then_tenants_in_turn_then_age(requests: str, order: str) -> None:
    queue = room()
    fill(queue, *requests.split())
    assert drained(queue) == order.split()
    assert len(queue) == 0


def test_turns_are_kept_while_requests_come_and_go() -> None:
    queue = room()
    fill(queue, "5a1", "5a2", "5b1")
    first = queue.next_ready(0.0)
    assert first is not None
    assert first.item == "5a1"
    fill(queue, "5a3", "5b2")
    assert drained(queue) == ["5b1", "5a2", "5b2", "5a3"]


@pytest.mark.parametrize(
    ("waiting", "new", "shed"),
    [
        ("5a1 5a2 3a1", "7b1", "3a1"),  # the lowest priority first
        ("5a1 3a1 3a2", "7b1", "3a2"),  # and of that the newest
        ("3a1 3b1 3b2", "7c1", "3b2"),  # of the tenant with the most
        ("5a1 5a2 5a3", "5b1", "5a3"),  # among equals, to even the shares
    ],
)
def test_when_full_what_matters_less_makes_room(waiting: str, new: str, shed: str) -> None:
    queue = room(max_queue=3)
    fill(queue, *waiting.split())
    entry, dropped = queue.enqueue(new, int(new[0]), new[1], 0.0, FAR)
    assert entry is not None
    assert dropped is not None
    assert (entry.item, dropped.item, dropped.queued) == (new, shed, False)
    assert len(queue) == 3


@pytest.mark.parametrize(
    ("waiting", "new"),
    [
        ("5a1 5a2 5a3", "5a4"),
        ("5a1 5a2 5a3", "3b1"),
        ("5a1 5b1 5c1", "5d1"),  # nobody has more than one
        ("5a1 5a2 5b1", "5b2"),  # it would only swap the shares
    ],
)
def test_when_full_of_what_matters_more_the_new_one_is_refused(waiting: str, new: str) -> None:
    queue = room(max_queue=3)
    fill(queue, *waiting.split())
    assert queue.enqueue(new, int(new[0]), new[1], 0.0, FAR) == (None, None)
    assert len(queue) == 3


def test_a_room_without_places_refuses_everyone() -> None:
    assert room(max_queue=0).enqueue("9a1", 9, "a", 0.0, FAR) == (None, None)


@pytest.mark.parametrize(("deadline", "leaves"), [(FAR, 10.0), (4.0, 4.0)])
def test_nobody_waits_longer_than_max_wait_or_the_deadline(deadline: float, leaves: float) -> None:
    queue = room()
    entry, _ = queue.enqueue("5a1", 5, "a", 0.0, deadline)
    assert entry is not None
    assert (entry.leaves_at, queue.next_expiry()) == (leaves, leaves)
    assert queue.expire(leaves - 0.01) == []
    assert queue.next_ready(leaves) is None  # too late for it, even before it is swept out
    assert queue.expire(leaves) == [entry]
    assert queue.expire(leaves) == []


def test_one_that_is_out_cannot_be_cancelled() -> None:
    queue = room()
    entry, _ = queue.enqueue("5a1", 5, "a", 0.0, FAR)
    assert entry is not None
    assert queue.cancel(entry)
    assert not queue.cancel(entry)
    assert queue.next_ready(0.0) is None


@pytest.mark.parametrize("priority", [-5, 99])
def test_priorities_out_of_range_are_cut_to_it(priority: int) -> None:
    queue = room()
    entry, _ = queue.enqueue("x", priority, "a", 0.0, FAR)
    assert entry is not None
    assert entry.priority == min(max(priority, 0), 9)


def test_one_that_lost_what_it_came_out_for_is_first_again_though_the_room_is_full_meanwhile() -> None:
    queue: AdmissionQueue[str] = AdmissionQueue(AdmissionSettings(max_queue=2, max_wait=5.0))
    for item, tenant in (("a1", "a"), ("a2", "a")):
        queue.enqueue(item, 5, tenant, 0.0, 100.0)
    first = queue.next_ready(1.0)
    assert first is not None
    queue.enqueue("b1", 5, "b", 1.0, 100.0)
    assert queue.enqueue("b2", 5, "b", 1.0, 100.0) == (None, None)
    queue.take_back(first)
    assert len(queue) == 3
    assert [entry.item for entry in iter(lambda: queue.next_ready(2.0), None)] == ["a1", "b1", "a2"]
    queue.take_back(first)
    assert [entry.item for entry in queue.expire(5.0)] == ["a1"]  # it has no more time than it had


def test_one_that_had_no_use_for_what_was_free_goes_behind_the_others_and_keeps_its_time() -> None:
    queue = room()
    fill(queue, "5a1", "5a2", "5b1", "3a1")
    first = queue.next_ready(0.0)
    assert first is not None
    assert first.item == "5a1"
    queue.put_back(first)
    assert (len(queue), first.queued, first.since) == (4, True, 0.0)
    assert drained(queue) == ["5b1", "5a2", "5a1", "3a1"]
    queue.put_back(first)
    assert queue.next_expiry() == 10.0
    assert [entry.item for entry in queue.expire(10.0)] == ["5a1"]
    queue.put_back(first)
    assert queue.cancel(first)
    assert len(queue) == 0


@pytest.mark.parametrize(("priority", "refused"), [(-1, True), (3, True), (4, False), (99, False)])
def test_who_would_be_refused_is_known_before(priority: int, refused: bool) -> None:
    queue = room(max_queue=2)
    assert not queue.refuses(priority, "b")
    fill(queue, "3a1", "3b1")
    assert queue.refuses(priority, "b") is refused
    assert (queue.enqueue("new", priority, "b", 0.0, FAR)[0] is None) is refused


def test_room_is_made_to_even_the_shares_only_by_more_than_one() -> None:
    for waiting, shed in (("5a1 5a2 5b1", None), ("5a1 5a2 5a3", "5a3"), ("5a1 5a2 5a3 5b1", "5a3")):
        queue = room(max_queue=len(waiting.split()))
        fill(queue, *waiting.split())
        _, dropped = queue.enqueue("5b9", 5, "b", 0.0, FAR)
        assert (dropped.item if dropped is not None else None) == shed


def test_the_rate_is_measured_anew_when_there_is_someone_to_be_served_again() -> None:
    queue = room()
    for n in range(20):
        queue.served(n / 10)
    queue.measure_from(100.0)
    assert queue.wait_estimate(100.9) is None  # not for a second
    for n in range(5):
        queue.served(100.0 + n / 5)
    assert queue.wait_estimate(100.9) is None
    assert queue.wait_estimate(101.0) == pytest.approx(1 / 5, rel=0.1)


def test_cancelled_ones_leave_nothing_behind() -> None:
    queue = room(max_queue=10)
    for n in range(5000):
        entry, _ = queue.enqueue(str(n), n % 10, str(n), 0.0, FAR)
        assert entry is not None
        queue.cancel(entry)
    assert len(queue._by_end) <= 64
    assert not any(lanes.by_tenant or lanes.by_length or lanes.waiting for lanes in queue._lanes)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(4, 6), st.booleans()), max_size=60))
def test_who_goes_before_a_new_one_is_who_would_be_called_before_it(
    steps: list[tuple[str, int, bool]],
) -> None:
    queue = room()
    for n in range(60):
        queue.served(n / 10)
    for tenant, priority, stays in steps:
        entry, _ = queue.enqueue(f"{priority}{tenant}", priority, tenant, 0.0, FAR)
        assert entry is not None
        if not stays:
            queue.cancel(entry)
    estimate = queue.wait_estimate(6.0, 5, "a")
    assert estimate is not None
    one = queue.wait_estimate(6.0, 9, "nobody")
    assert one is not None
    queue.enqueue("new", 5, "a", 0.0, FAR)
    first = drained(queue).index("new")
    # By the turns as they stand the others may have had one less each.
    assert first <= round(estimate / one) - 1 <= first + 5


def test_what_a_request_costs_does_not_grow_with_those_who_wait() -> None:
    def steps(waiting: int) -> int:
        queue = room(max_queue=waiting)
        for n in range(waiting):
            queue.enqueue(str(n), 5, f"tenant {n}", 0.0, FAR)
        for n in range(60):
            queue.served(n / 10)
        lines = 0

        def count(frame: object, event: str, arg: object) -> Any:
            nonlocal lines
            lines += 1
            return count

        sys.settrace(count)
        try:
            assert queue.refuses(5, "new")
            assert queue.wait_estimate(6.0, 5, "new") is not None
            entry, shed = queue.enqueue("high", 9, "new", 0.0, FAR)
            assert queue.next_ready(0.0) is entry
        finally:
            sys.settrace(None)
        assert shed is not None
        return lines

    assert steps(4000) <= 2 * steps(40)  # not a hundred times as many


def test_retry_after_comes_from_the_measured_rate() -> None:
    queue = room()
    assert queue.wait_estimate(0.0) is None
    assert queue.retry_after(0.0) == 10.0  # nothing measured: max_wait
    for n in range(600):
        queue.served(n / 5)
    fill(queue, *["5a1"] * 30, *["8a1"] * 10)
    assert queue.wait_estimate(120.0, priority=9) == pytest.approx(1 / 5, rel=0.1)
    assert queue.wait_estimate(120.0, priority=8) == pytest.approx(11 / 5, rel=0.1)
    assert queue.retry_after(120.0) == pytest.approx(41 / 5, rel=0.1)
    assert queue.retry_after(400.0) == 60.0  # service has stopped: no longer than that all the same


def test_the_rate_is_right_from_the_first_seconds_on() -> None:
    queue = room()
    for n in range(20):
        queue.served(n / 10)
    assert queue.wait_estimate(2.0) == pytest.approx(1 / 10, rel=0.1)


class AdmissionMachine(RuleBasedStateMachine):
    """Bounded, and every request comes out exactly once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.queue: AdmissionQueue[int] = AdmissionQueue(AdmissionSettings(8, 5.0))
        self.inside: dict[int, Waiting[int]] = {}
        self.number = 0

    def leaves(self, entry: Waiting[int]) -> None:
        assert self.inside.pop(entry.item) is entry
        assert not entry.queued

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.9]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(priority=st.integers(0, 9), tenant=st.sampled_from("abc"), patience=st.sampled_from([0.5, 3.0, 100.0]))
    def enqueue(self, priority: int, tenant: str, patience: float) -> None:
        self.number += 1
        full = len(self.inside) == 8
        lowest = min((entry.priority for entry in self.inside.values()), default=0)
        entry, shed = self.queue.enqueue(self.number, priority, tenant, self.now, self.now + patience)
        assert (shed is not None) == (full and entry is not None)
        if shed is not None:
            assert shed.priority == lowest <= priority
            self.leaves(shed)
        if entry is None:
            assert full
            assert priority <= lowest
        else:
            self.inside[self.number] = entry

    @rule()
    def next_ready(self) -> None:
        alive = [entry for entry in self.inside.values() if entry.leaves_at > self.now]
        entry = self.queue.next_ready(self.now)
        if entry is None:
            assert not alive
        else:
            assert entry in alive
            assert entry.priority == max(other.priority for other in alive)
            same = [o for o in alive if (o.tenant, o.priority) == (entry.tenant, entry.priority)]
            assert entry.number == min(other.number for other in same)
            self.leaves(entry)

    @rule()
    def expire(self) -> None:
        due = {entry.item for entry in self.inside.values() if entry.leaves_at <= self.now}
        expired = self.queue.expire(self.now)
        assert {entry.item for entry in expired} == due
        for entry in expired:
            self.leaves(entry)

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        entry = self.inside[data.draw(st.sampled_from(sorted(self.inside)))]
        assert self.queue.cancel(entry)
        self.leaves(entry)

    @invariant()
    def bounded_and_counted(self) -> None:
        assert len(self.queue) == len(self.inside) <= 8
        assert len(self.queue._by_end) <= 2 * 8 + 64


AdmissionMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestAdmission = AdmissionMachine.TestCase
