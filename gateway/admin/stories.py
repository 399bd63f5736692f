"""Recent requests as the page shows them: found by text and outcome, each attempt with why it was made, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.observe.request_log import RequestLog, RequestStory

#: Stories given at a time, and the characters of a search.
MOST = 200
_QUERY_LIMIT = 128
_OUTCOMES = ("all", "failed", "hidden")

_WHY = {
    "primary": "first choice of the first tier, by {balance}",
    "retry": "another endpoint of the tier, after the attempt before it failed; by {balance}",
    "retry_same": "back to an endpoint that was tried: no other one was left",
    "fallback": "first of a further tier: none was left of the one before",
    "beside": "beside a slow one: that had given no first token within timeout.first_token",
    "shrunk": "the same endpoint with a smaller request, as it had run out of memory",
    "last_resort": "its circuit was open and nothing else was left; one try a second is let through",
    "hedge": "a hedge beside an attempt that took longer than usual",
    "resume": "goes on with a stream that had broken",
}


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for. `text` is found in IDs, models, routes, backends and error types; `outcome` is all, failed, or
    hidden (answered well, with failed attempts behind it)."""

    text: str = ""
    outcome: str = "all"
    limit: int = 50

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Search:
        """From a query string; what makes no sense there is left at its default."""
        outcome = query.get("outcome", "all")
        limit = query.get("limit", "50")
        number = int(limit) if limit.isascii() and limit.isdigit() and len(limit) < 6 else 50
        return cls(
            query.get("q", "")[:_QUERY_LIMIT].strip().lower(),
            outcome if outcome in _OUTCOMES else "all",
            max(1, min(MOST, number)),
        )

    def finds(self, story: RequestStory) -> bool:
        if self.outcome == "failed" and not story.failed:
            return False
        if self.outcome == "hidden" and (
            story.error is not None or not any(attempt.error for attempt in story.attempts)
        ):
            return False
        return not self.text or any(self.text in part.lower() for part in _texts(story))


def found(log: RequestLog, search: Search, balances: Mapping[str, str]) -> list[dict[str, Any]]:
    """Stories, newest first. `balances` are the balancers' names by route."""
    stories = _newest(log, only_failed=search.outcome == "failed")
    matching = (story for story in stories if search.finds(story))
    return [told(story, balances) for story, _ in zip(matching, range(search.limit), strict=False)]


def told(story: RequestStory, balances: Mapping[str, str]) -> dict[str, Any]:
    """One story with its attempts explained."""
    shown = story.to_dict()
    balance = balances.get(story.route, "the route's balancer")
    for attempt in shown["attempts"]:
        attempt["because"] = _WHY.get(attempt["why"], attempt["why"]).format(balance=balance)
    return shown


def lately(log: RequestLog, since: float) -> dict[str, dict[str, Any]]:
    """By backend, over the recent requests that came after `since` (seconds since the epoch): `failed` attempts, and of
    those that answered the milliseconds (`ms`) to the first token or whole answer."""
    found: dict[str, dict[str, Any]] = {}
    for story in log.recent(1000):
        if story.at < since:
            continue
        for attempt in story.attempts:
            if attempt.beaten:
                continue
            backend = found.setdefault(attempt.backend, {"ms": [], "failed": 0})
            if attempt.error is None:
                backend["ms"].append(round(attempt.ms, 3))
            else:
                backend["failed"] += 1
    return found


def percentiles(ordered: Sequence[float]) -> dict[str, float | None]:
    """`p50` and `p95` of values in ascending order."""
    if not ordered:
        return {"p50": None, "p95": None}
    return {f"p{q}": round(ordered[min(len(ordered) - 1, len(ordered) * q // 100)], 3) for q in (50, 95)}


def _newest(log: RequestLog, *, only_failed: bool) -> Iterator[RequestStory]:
    """All that is kept: the recent ones, then the failed ones that the recent ones have washed away."""
    if not only_failed:
        yield from log.recent(1000)
        recent: Iterable[RequestStory] = log.recent(1000)
        seen = {id(story) for story in recent}
        yield from (story for story in log.recent(1000, failed=True) if id(story) not in seen)
    else:
        yield from log.recent(1000, failed=True)


def _texts(story: RequestStory) -> Iterator[str]:
    yield story.correlation_id
    yield story.route
    yield story.path
    yield str(story.status)
    if story.model:
        yield story.model
    if story.error is not None:
        yield story.error.value
    for attempt in story.attempts:
        yield attempt.backend
        if attempt.error is not None:
            yield attempt.error.value
