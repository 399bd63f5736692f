"""The page's part of a running gateway: samples, open pages, the trail of acts."""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic
from typing import TYPE_CHECKING, Any

from gateway.admin import stories
from gateway.admin.acts import Audit
from gateway.admin.events import EventHub, event
from gateway.admin.history import History, joined, shown
from gateway.admin.merge import newest
from gateway.admin.state import Workers, balances, part, queued, whole
from gateway.observe.request_log import RequestStory

if TYPE_CHECKING:
    from gateway.app import Gateway

_INTERVAL = 1.0
#: Finished requests sent to the pages in a second; failed ones are not pushed out by good ones.
_STORIES = 40
#: Acts shown.
_ACTS = 20


class Admin:
    """Belongs to one gateway. `workers` gives the snapshots of supervised model servers, where this process has any."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.audit = Audit(gateway.services.log, gateway.services.clock)
        self.history = History()
        self.events = EventHub()
        self.workers: Workers | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen: dict[int | None, _Seen] = {}

    def start(self) -> None:
        """Starts sampling."""
        self._tasks.add(asyncio.create_task(self._run(), name="admin"))

    async def close(self) -> None:
        """Ends the sampling and the pages' streams."""
        self.events.close()
        for task in list(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def state(self) -> dict[str, Any]:
        """All there is to show at once: the present, the last minutes, the last acts."""
        told = await self._all(history=True)
        own, *others = [one["history"] for one in told]
        return {**await self._present(told), "history": list(joined(own, others))}

    async def snapshot(self) -> bytes:
        """The event that a new page begins with."""
        return event("snapshot", await self.state())

    async def refresh(self) -> None:
        """Shows the pages what an act has changed, without waiting for the next second."""
        if len(self.events):
            self.events.publish(event("state", await self._present(await self._all())))

    async def tell(self, asker: int | None, history: bool = False, news: bool = False) -> dict[str, Any]:
        """What this process has for the pages of the worker `asker`: with the samples of the last minutes, or with the
        requests that have finished since that worker last asked for them."""
        samples = self.history.samples
        return {
            "part": await part(self._gateway, self.workers),
            "acts": self.audit.latest(_ACTS),
            "history": list(samples) if history else list(samples)[-1:],
            "news": self._news(asker) if news else [],
        }

    async def requests(self, search: stories.Search) -> list[dict[str, Any]]:
        """The stories of all workers that a search finds, newest first."""
        text, outcome, limit = search.text, search.outcome, search.limit
        others = await self._gateway.peers.ask("search", text=text, outcome=outcome, limit=limit)
        return newest([self.search(text, outcome, limit), *others], "timestamp", limit)

    def search(self, text: str, outcome: str, limit: int) -> list[dict[str, Any]]:
        """The stories of this process that a search finds, newest first."""
        wanted = stories.Search(text, outcome, limit)
        return stories.found(self._gateway.services.requests, wanted, balances(self._gateway))

    async def _run(self) -> None:
        services = self._gateway.services
        wake = monotonic()
        telling: asyncio.Task[None] | None = None
        while True:
            self.history.sample(
                self._gateway.metrics,
                services.clock(),
                monotonic(),
                in_flight=services.in_flight,
                queued=queued(self._gateway),
            )
            if len(self.events) and telling is None:  # a worker that does not answer must not hold up the samples
                telling = asyncio.create_task(self._publish())
                self._tasks.add(telling)
                telling.add_done_callback(self._tasks.discard)
            wake = max(wake + _INTERVAL, monotonic())
            await asyncio.sleep(wake - monotonic())
            telling = None if telling is None or telling.done() else telling

    async def _publish(self) -> None:
        try:
            told = await self._all(news=True)
            tick = {
                **await self._present(told),
                "sample": shown([sample for one in told for sample in one["history"]]),
                "requests": newest([one["news"] for one in told], "timestamp", 2 * _STORIES),
            }
            self.events.publish(event("state", tick))
        except Exception:
            self._gateway.services.log.exception("admin_page_failed")

    async def _all(self, **wanted: bool) -> list[dict[str, Any]]:
        """What each worker tells, this one first."""
        asker = self._gateway.peers.number
        others = await self._gateway.peers.ask("page", asker=asker, **wanted)
        return [await self.tell(asker, **wanted), *others]

    async def _present(self, told: list[dict[str, Any]]) -> dict[str, Any]:
        parts = [one["part"] for one in told]
        gone = await self._gateway.peers.ask("gone")
        return {**whole(self._gateway, parts, gone), "acts": newest([one["acts"] for one in told], "at", _ACTS)}

    def _news(self, asker: int | None) -> list[dict[str, Any]]:
        """Requests finished since `asker` last asked, newest first."""
        log = self._gateway.services.requests
        seen = self._seen.setdefault(asker, _Seen())
        failed = _since(log.recent(_STORIES, failed=True), seen.failed)
        news = _since(log.recent(_STORIES), seen.latest)
        seen.latest = news[0] if news else seen.latest
        seen.failed = failed[0] if failed else seen.failed
        known = {id(story) for story in news}
        news += [story for story in failed if id(story) not in known]
        return [stories.told(story, balances(self._gateway)) for story in news]


class _Seen:
    """The last stories that a worker has been told."""

    __slots__ = ("failed", "latest")

    def __init__(self) -> None:
        self.latest: RequestStory | None = None
        self.failed: RequestStory | None = None


def _since(stories_: list[RequestStory], last: RequestStory | None) -> list[RequestStory]:
    for at, story in enumerate(stories_):
        if story is last:
            return stories_[:at]
    return stories_
