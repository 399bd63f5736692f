"""One timer for the waits of a connection, which come one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

from gateway.alarm import Alarm
from gateway.http.job import Signal


class Loop:
    """A loop whose time goes on by `reach` alone; `made` counts its timers."""

    def __init__(self) -> None:
        self.now = 100.0
        self.made = 0
        self._timers: list[tuple[float, SimpleNamespace, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, callback: Callable[[], None]) -> SimpleNamespace:
        self.made += 1
        handle = SimpleNamespace(cancel=lambda: self._timers.remove(timer) if timer in self._timers else None)
        timer = at, handle, callback
        self._timers.append(timer)
        return handle

    def reach(self, now: float) -> None:
        self.now = now
        while due := [timer for timer in self._timers if timer[0] <= now]:
            self._timers.remove(due[0])
            due[0][2]()

    @property
    def running(self) -> list[float]:
        return sorted(at for at, _, _ in self._timers)


def alarm_on(loop: Loop) -> Alarm:
    return Alarm(cast(asyncio.AbstractEventLoop, loop))


def test_waits_that_end_early_share_one_timer() -> None:
    loop = Loop()
    alarm = alarm_on(loop)
    for _ in range(10):
        alarm.set(loop.now + 30.0, Signal())
        alarm.clear()
        loop.reach(loop.now + 1.0)
    assert loop.made == 1


def test_the_wait_of_then_ends_at_its_own_time() -> None:
    loop, early, late = Loop(), Signal(), Signal()
    alarm = alarm_on(loop)
    alarm.set(130.0, early)
    alarm.clear()
    alarm.set(140.0, late)
    loop.reach(130.0)
    assert not late.is_set
    loop.reach(140.0)
    assert late.is_set
    assert not early.is_set


def test_a_shorter_wait_does_not_have_to_wait_for_a_longer_ones_timer() -> None:
    loop, soon = Loop(), Signal()
    alarm = alarm_on(loop)
    alarm.set(130.0, Signal())
    alarm.set(101.0, soon)
    assert loop.running == [101.0]
    loop.reach(101.0)
    assert soon.is_set


def test_without_a_wait_the_timer_ends_and_a_later_wait_has_its_own() -> None:
    loop, later = Loop(), Signal()
    alarm = alarm_on(loop)
    alarm.set(101.0, Signal())
    alarm.clear()
    loop.reach(101.0)
    assert loop.running == []
    alarm.set(103.0, later)
    loop.reach(103.0)
    assert later.is_set


def test_a_timer_that_is_late_gives_as_much_longer_once() -> None:
    loop, held_up = Loop(), Signal()
    alarm = alarm_on(loop)
    alarm.set(101.0, held_up)
    loop.reach(101.5)
    assert not held_up.is_set
    loop.reach(103.0)
    assert held_up.is_set


def test_a_closed_alarm_leaves_no_timer_behind() -> None:
    loop = Loop()
    alarm = alarm_on(loop)
    alarm.set(130.0, Signal())
    alarm.close()
    assert loop.running == []
