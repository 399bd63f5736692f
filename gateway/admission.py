"""The waiting room of a route: its requests stand in line there while all endpoints are at their limit, said that they
are busy, or are down.

A slot that frees is handed to the one whose turn it is. A new request joins the line behind those who wait, even if it
meets the very moment at which a slot is free. When everything is down, requests wait for the first endpoint that comes
back and are let go as it has slots: one to find out, then as many as its limit allows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from gateway.errors.taxonomy import GatewayError
from gateway.loading import down, given_up
from gateway.observe.metrics import RouteMetrics
from policies.admission import HIGHEST_PRIORITY, AdmissionQueue, AdmissionSettings, Waiting
from policies.outcome import ErrorKind
from policies.plan import AttemptPlan
from policies.target import Choice

if TYPE_CHECKING:
    from gateway.context import RequestContext
    from gateway.endpoint import Endpoint
    from gateway.runtime import Candidate

#: Priority of a request without a key that does not say.
DEFAULT_PRIORITY = 5
#: Seconds between looks at the endpoints while requests wait: circuits and pauses end without telling.
_INTERVAL = 0.1

#: An outage that has lasted this many times `max_wait` is expected to go on: new requests are told so at once.
_PATIENCE = 3.0

_REASONS = {
    "queue_full": "All backends for this model are at their limit, and as many requests wait as may.",
    "displaced": "All backends for this model are at their limit; a request of higher priority took this one's place.",
    "too_long": "All backends for this model are at their limit, and the wait would be longer than it may be.",
    "max_wait": "All backends for this model were at their limit for as long as a request may wait.",
    "outage": "No backend for this model is up, and none came back for as long as a request may wait.",
}
_ADVICE = " Wait as long as Retry-After says, then try again."

#: What a waiting request is told: None that it is its turn, else why it is not going to be.
_Word = str | None
_Entry = Waiting["asyncio.Future[_Word]"]


class WaitingRoom:
    """The line of one route. Costs nothing until someone has to wait."""

    def __init__(self, settings: AdmissionSettings, endpoints: Iterable[Endpoint]) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: AdmissionQueue[asyncio.Future[_Word]] = AdmissionQueue(settings)
        self._endpoints = tuple(dict.fromkeys(endpoints))
        self._called = 0  # those whose turn it is, but who have not run since
        self._streams = 0  # broken ones that wait for an endpoint; they stand in no line
        self._passed = 0  # those in the line that had no use for what is free now
        self._was_serving = True
        self._down_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = 0.0

    def __len__(self) -> int:
        return len(self._queue)

    def matches(self, settings: AdmissionSettings, endpoints: Iterable[Endpoint]) -> bool:
        """Whether a room made of these would be the same."""
        return self._queue.settings == settings and self._endpoints == tuple(dict.fromkeys(endpoints))

    @property
    def crowded(self) -> bool:
        """Whether a new request has to go to the end of the line."""
        return self._timer is not None or self._called > 0

    @property
    def pressure(self) -> float:
        """Share of its places that are taken, 0 to 1."""
        return len(self._queue) / max(1, self._queue.settings.max_queue)

    def check(self, ctx: RequestContext, numbers: RouteMetrics) -> None:
        """Turns away a new request for which the line has no place, before any work is put into it.

        Raises GatewayError.
        """
        if self.crowded:
            now = monotonic()
            reason = self._refusal(ctx, priority_of(ctx), now)
            if reason is not None:
                self._in_vain(ctx, numbers, reason, now)

    async def turn(
        self, ctx: RequestContext, plan: AttemptPlan[Candidate], numbers: RouteMetrics
    ) -> Choice[Candidate] | None:
        """The plan's next attempt once there is a slot for it; None when there is nothing to wait for.

        A request that was called up before, to an endpoint that was gone again, has its old place. Raises GatewayError
        when a request that was not tried yet can't wait, or has waited in vain.
        """
        now = monotonic()
        if not (self.crowded or self._makes_sense(ctx, plan, now)):
            return None
        entry = self._enter(ctx, now)
        if isinstance(entry, str):
            self._in_vain(ctx, numbers, entry, now)
            return None
        since = now
        choice: Choice[Candidate] | None = None
        try:
            while True:
                word = await self._called_up(entry)
                now = monotonic()
                if word is not None:
                    self._in_vain(ctx, numbers, word, now)
                    return None
                choice = plan.next(now) or plan.recovered(now)
                if choice is not None or not self._makes_sense(ctx, plan, now):
                    return choice
                # What is free is not for this request (its endpoint was asked already), or another route was faster.
                entry.item = self._loop.create_future()
                self._queue.put_back(entry)
                self._passed += 1
                self._attend(now)
        finally:
            now = monotonic()
            ctx.waited(since, now)
            numbers.queue_wait.observe(now - since)
            if self._queue.cancel(entry) or choice is None:
                self._go_on(now)  # it leaves without taking the slot that it may have been called up for

    @contextmanager
    def place_for_stream(self) -> Iterator[float]:
        """For how many seconds a broken stream may wait for an endpoint that comes back: as long as requests may.

        As many may wait as requests may, and none where what is left of the route has been given up.
        """
        settings = self._queue.settings
        hopeless = given_up(endpoint.state for endpoint in self._endpoints)
        taken = self._streams < settings.max_queue and not hopeless
        self._streams += taken
        try:
            yield settings.max_wait if taken else 0.0
        finally:
            self._streams -= taken

    # -- in ------------------------------------------------------------------------------------------------------------

    def _patience(self, ctx: RequestContext, now: float) -> float:
        """Until when the request may wait: one that comes back to its place has one `max_wait` in all."""
        if ctx.place is not None:
            return ctx.place.leaves_at
        return min(ctx.deadline, now + self._queue.settings.max_wait)

    def _makes_sense(self, ctx: RequestContext, plan: AttemptPlan[Candidate], now: float) -> bool:
        """Whether the request can be answered by waiting: for a slot, or for an endpoint that comes back."""
        until = self._patience(ctx, now)
        if plan.may_wait(now, until):
            return True
        longest = self._queue.settings.max_wait
        if longest <= 0 or not plan.may_recover(now, until) or given_up(endpoint.state for endpoint in self._endpoints):
            return False
        if all(endpoint.vitality.unheard for endpoint in self._endpoints):
            return False  # a wrong address, say, or servers not yet started: not an outage that is about to end
        since = self._down_since
        if since is None or any(endpoint.vitality.seen_since(since) for endpoint in self._endpoints):
            self._down_since = since = now
        return now - since <= _PATIENCE * longest

    def _enter(self, ctx: RequestContext, now: float) -> _Entry | str:
        """A place in the line, or the reason why there is none."""
        queue = self._queue
        if not len(queue):
            queue.measure_from(now)
        if ctx.place is not None:
            ctx.place.item = self._loop.create_future()
            queue.take_back(ctx.place)  # till it would have left anyway: it has one `max_wait` in all
            self._attend(now)
            return ctx.place
        priority = priority_of(ctx)
        if (reason := self._refusal(ctx, priority, now)) is not None:
            return reason
        entry, displaced = queue.enqueue(self._loop.create_future(), priority, tenant_of(ctx), now, ctx.deadline)
        if displaced is not None:
            _tell(displaced, "displaced")
        if entry is None:
            return "queue_full"
        ctx.place = entry
        self._attend(now)
        return entry

    def _refusal(self, ctx: RequestContext, priority: int, now: float) -> str | None:
        """Why a new request need not wait; None when it may. Costs nearly the same however many wait."""
        queue = self._queue
        if queue.refuses(priority, tenant_of(ctx)):
            return "queue_full"
        if len(queue) and self._was_serving and self._serving(now):  # when one comes back, no rate is known yet
            estimate = queue.wait_estimate(now, priority, tenant_of(ctx))
            if estimate is not None and estimate > min(queue.settings.max_wait, ctx.deadline - now):
                return "too_long"
        return None

    async def _called_up(self, entry: _Entry) -> _Word:
        word = entry.item
        try:
            return await word
        finally:
            if word.done() and not word.cancelled() and word.result() is None:
                self._called -= 1

    def _in_vain(self, ctx: RequestContext, numbers: RouteMetrics, reason: str, now: float) -> None:
        """Ends the wait of a request; one that was tried already is told of its attempts instead."""
        if reason == "max_wait" and not self._up(now):
            reason = "outage"
        numbers.shed[reason] += 1
        if ctx.attempts:
            return
        if now >= ctx.deadline and ctx.deadline_is_clients:
            raise GatewayError(ErrorKind.DEADLINE_EXCEEDED)
        told = down(self._endpoints) if reason == "outage" else None
        if told is not None:
            raise told
        advice = self._queue.retry_after(now)
        raise GatewayError(ErrorKind.MODEL_OVERLOADED, _REASONS[reason] + _ADVICE, retry_after=advice)

    # -- attending to the line -----------------------------------------------------------------------------------------

    def _attend(self, now: float) -> None:
        """Has the endpoints tell when they have a slot, while anyone waits."""
        if self._timer is None:
            for endpoint in self._endpoints:
                endpoint.waiting_rooms[self] = self._freed
        self._go_on(now)

    def _freed(self, now: float) -> None:
        """An endpoint of the route has finished an attempt."""
        self._queue.served(now)
        self._passed = 0
        self._go_on(now)

    def _tick(self) -> None:
        self._timer = None
        self._passed = 0
        self._go_on(monotonic())

    def _go_on(self, now: float) -> None:
        """Sends away those whose time is up, calls up as many as there are slots, and looks again later."""
        queue = self._queue
        serving = self._serving(now)
        if serving and not self._was_serving:
            queue.measure_from(now)  # what was served while nothing was there says nothing of the rate now
        self._was_serving = serving
        for entry in queue.expire(now):
            _tell(entry, "max_wait")
        places = self._places(now)
        while self._called < places and self._passed < len(queue) and (called := queue.next_ready(now)) is not None:
            self._called += _tell(called, None)
        if len(queue):
            expiry = queue.next_expiry()
            pauses = [endpoint.away_until for endpoint in self._endpoints if endpoint.away_until > now]
            self._look_again(min(now + _INTERVAL, expiry if expiry is not None else now, *pauses))
        else:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            for endpoint in self._endpoints:
                endpoint.waiting_rooms.pop(self, None)

    def _look_again(self, at: float) -> None:
        """At that time or earlier: a timer for each request would cost more than a look too many."""
        if self._timer is not None:
            if self._looks_at <= at:
                return
            self._timer.cancel()
        self._timer, self._looks_at = self._loop.call_at(at, self._tick), at  # a timer of uvloop's may not say when

    def _up(self, now: float) -> bool:
        return any(endpoint.up(now) for endpoint in self._endpoints)

    def _serving(self, now: float) -> bool:
        return any(endpoint.up(now) and endpoint.away_until <= now for endpoint in self._endpoints)

    def _places(self, now: float) -> int:
        """Slots that are free. An endpoint that is ejected has one when it is due for an early try."""
        free = 0
        for endpoint in self._endpoints:
            if endpoint.up(now):
                free += endpoint.slots(now)
            elif endpoint.reachable:
                free += endpoint.breaker.allows_early(now)
        return free


def _tell(entry: _Entry, word: _Word) -> bool:
    """Whether anyone heard it: a client that left is in the line until its task has run."""
    if entry.item.done():
        return False
    entry.item.set_result(word)
    return True


def tenant_of(ctx: RequestContext) -> str:
    """Whose turn it takes: that of its key, or without keys of the address it came from."""
    return ctx.key.name if ctx.key is not None else ctx.request.peer


def priority_of(ctx: RequestContext) -> int:
    """`X-Priority` (0 to 9), at most the key's own priority; without the header the key's, or 5 without a key."""
    own = ctx.key.priority if ctx.key is not None else None
    asked = ctx.request.headers.get(b"x-priority", b"").strip()
    if len(asked) == 1 and asked.isdigit():
        return min(int(asked), own if own is not None else HIGHEST_PRIORITY)
    return own if own is not None else DEFAULT_PRIORITY
