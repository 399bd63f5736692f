"""What a fault backend has seen: a bounded log that a test can wait on instead of sleeping."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

_KEPT = 10_000
_BODY_KEPT = 1 << 20

State = Literal["running", "completed", "aborted", "cut"]


@dataclass(slots=True)
class SeenRequest:
    """One request. Times are of the event loop's clock, in seconds.

    `state`: running; completed (the whole answer was written); aborted (the client left first); cut (a fault ended it).
    """

    number: int
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int
    reused: bool
    received_at: float
    faults: tuple[str, ...] = ()
    status: int | None = None
    tokens_sent: int = 0
    state: State = "running"
    ended_at: float | None = None

    def as_json(self) -> dict[str, Any]:
        """For the control path."""
        return asdict(self) | {"body": self.body.decode("utf-8", "replace"), "headers": dict(self.headers)}


class RequestLog:
    """The last requests, oldest first; `total` counts all there ever were."""

    def __init__(self) -> None:
        self.total = 0
        self._requests: deque[SeenRequest] = deque(maxlen=_KEPT)
        self._changed = asyncio.Event()

    def __iter__(self) -> Iterator[SeenRequest]:
        return iter(list(self._requests))

    def __len__(self) -> int:
        return len(self._requests)

    def __getitem__(self, index: int) -> SeenRequest:
        return self._requests[index]

    def to(self, path: str) -> list[SeenRequest]:
        """Those for exactly this path."""
        return [request for request in self._requests if request.path == path]

    def clear(self) -> None:
        """Forgets all requests; `total` counts on."""
        self._requests.clear()

    async def wait_for(self, predicate: Callable[[RequestLog], object], timeout: float = 5.0) -> None:
        """Returns as soon as `predicate(self)` is true. Raises TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            while not predicate(self):
                self._changed.clear()
                await self._changed.wait()

    async def wait_for_state(self, state: State, count: int = 1, timeout: float = 5.0) -> list[SeenRequest]:
        """The requests in `state`, as soon as there are `count`. Raises TimeoutError."""
        await self.wait_for(lambda log: sum(r.state == state for r in log) >= count, timeout)
        return [request for request in self._requests if request.state == state]

    def begin(self, request: SeenRequest) -> None:
        """Notes a request that has been read whole."""
        request.body = request.body[:_BODY_KEPT]
        self._requests.append(request)
        self.total += 1
        self._changed.set()

    def progress(self, request: SeenRequest, tokens: int) -> None:
        """Notes tokens written to the client."""
        request.tokens_sent += tokens
        self._changed.set()

    def end(self, request: SeenRequest, state: State, now: float) -> None:
        """Notes how a request ended; the first ending counts."""
        if request.state == "running":
            request.state, request.ended_at = state, now
            self._changed.set()
