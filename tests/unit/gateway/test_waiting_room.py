"""What the waiting room tells new requests at the moment when an endpoint comes back."""

from __future__ import annotations

from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.admission import WaitingRoom
from policies.admission import AdmissionSettings


class Up:
    """An endpoint that may be asked."""

    away_until = 0.0

    def up(self, now: float) -> bool:
        return True


@pytest.mark.parametrize(("was_serving", "refusal"), [(False, None), (True, "too_long")])
async def test_the_rate_of_an_outage_is_not_taken_for_that_of_a_backend_which_has_just_come_back(
    was_serving: bool, refusal: str | None
) -> None:
    endpoint: Any = Up()
    room = WaitingRoom(AdmissionSettings(max_queue=256, max_wait=10.0), [endpoint])
    ctx: Any = SimpleNamespace(key=None, request=SimpleNamespace(peer="127.0.0.1"), deadline=monotonic() + 60.0)
    now = monotonic()
    room._queue.measure_from(now - 3.0)
    for _ in range(3):  # early tries, each of which failed
        room._queue.served(now - 1.0)
    for _ in range(100):
        room._queue.enqueue(room._loop.create_future(), 5, "127.0.0.1", now, now + 10.0)
    room._was_serving = was_serving
    assert room._refusal(ctx, 5, now) == refusal


async def test_a_look_that_is_due_at_once_is_not_asked_when_it_is_due() -> None:
    """uvloop gives a handle without a time for a timer that is due now."""
    room = WaitingRoom(AdmissionSettings(max_queue=256, max_wait=10.0), [])
    looks: list[float] = []

    class Loop:
        def call_at(self, at: float, callback: object) -> SimpleNamespace:
            looks.append(at)
            return SimpleNamespace(cancel=lambda: looks.append(-at))

    loop: Any = Loop()
    room._loop = loop
    for at in (5.0, 6.0, 4.0):
        room._look_again(at)
    assert looks == [5.0, -5.0, 4.0]
