"""The page's part of a running gateway: samples, open pages, the trail of acts."""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic
from typing import TYPE_CHECKING, Any

from gateway.admin.acts import Audit
from gateway.admin.events import EventHub, event
from gateway.admin.history import History
from gateway.admin.state import Workers, balances, present, queued
from gateway.admin.stories import told
from gateway.observe.request_log import RequestStory

if TYPE_CHECKING:
    from gateway.app import Gateway

_INTERVAL = 1.0
#: Finished requests sent to the pages in a second; failed ones are not pushed out by good ones.
_STORIES = 40


class Admin:
    """Belongs to one gateway. `workers` gives the snapshots of supervised model servers, where this process has any."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.audit = Audit(gateway.services.log, gateway.services.clock)
        self.history = History()
        self.events = EventHub()
        self.workers: Workers | None = None
        self._task: asyncio.Task[None] | None = None
        self._last_story: RequestStory | None = None
        self._last_failed: RequestStory | None = None

    def start(self) -> None:
        """Starts sampling."""
        self._task = asyncio.create_task(self._run(), name="admin")

    async def close(self) -> None:
        """Ends the sampling and the pages' streams."""
        self.events.close()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def state(self) -> dict[str, Any]:
        """All there is to show at once: the present, the last minutes, the last acts."""
        return {
            **await present(self._gateway, self.workers),
            "acts": self.audit.latest(),
            "history": list(self.history.samples),
        }

    async def snapshot(self) -> bytes:
        """The event that a new page begins with."""
        return event("snapshot", await self.state())

    async def refresh(self) -> None:
        """Shows the pages what an act has changed, without waiting for the next second."""
        if len(self.events):
            self.events.publish(event("state", await self._present()))

    async def _run(self) -> None:
        services = self._gateway.services
        wake = monotonic()
        while True:
            sample = self.history.sample(
                self._gateway.metrics, services.clock(), in_flight=services.in_flight, queued=queued(self._gateway)
            )
            try:
                if len(self.events):
                    tick = {"sample": sample, "requests": self._news(), **await self._present()}
                    self.events.publish(event("state", tick))
            except Exception:
                services.log.exception("admin_page_failed")
            wake = max(wake + _INTERVAL, monotonic())
            await asyncio.sleep(wake - monotonic())

    async def _present(self) -> dict[str, Any]:
        return {**await present(self._gateway, self.workers), "acts": self.audit.latest()}

    def _news(self) -> list[dict[str, Any]]:
        """Requests finished since the last look, newest first."""
        log = self._gateway.services.requests
        failed = _since(log.recent(_STORIES, failed=True), self._last_failed)
        news = _since(log.recent(_STORIES), self._last_story)
        self._last_story = news[0] if news else self._last_story
        self._last_failed = failed[0] if failed else self._last_failed
        shown = {id(story) for story in news}
        news += [story for story in failed if id(story) not in shown]
        return [told(story, balances(self._gateway)) for story in news]


def _since(stories: list[RequestStory], last: RequestStory | None) -> list[RequestStory]:
    for at, story in enumerate(stories):
        if story is last:
            return stories[:at]
    return stories
