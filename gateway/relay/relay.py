"""What passes the rest of an answer on, whatever it is, has in common: the times it is given, a watch on silence."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic

from backends.held_up import held_up
from gateway.attempt import Attempt
from gateway.http.connection import ClientConnection
from gateway.upstream.connection import UpstreamHead
from policies.outcome import Blame, Elsewhere, ErrorKind, Failure


@dataclass(frozen=True, slots=True)
class StreamTimeouts:
    """`idle`: longest silence of the backend; `keepalive`: a comment goes to the client after so much; both seconds.

    `deadline` is in loop time; `deadline_kind` what it means when it passes.
    """

    idle: float
    keepalive: float
    deadline: float
    deadline_kind: ErrorKind

    def out_of_time(self) -> Failure:
        """The deadline has passed while an answer was coming, which is nobody's fault: it was not silent."""
        evidence = "the deadline passed in the middle of the answer"
        return Failure(self.deadline_kind, evidence, status=200, elsewhere=Elsewhere.NO, blame=Blame.NONE)


class Relay:
    """A sink for the rest of one attempt's answer.

    `done` resolves to None when the answer is whole, else to the failure that broke it; nothing has been said to the
    client about that failure yet. `chunks` are the pieces that came.
    """

    __slots__ = (
        "_attempt",
        "_client",
        "_due",
        "_excused",
        "_last_data",
        "_loop",
        "_timeouts",
        "_timer",
        "chunks",
        "done",
    )

    def __init__(
        self,
        client: ClientConnection,
        attempt: Attempt,
        timeouts: StreamTimeouts,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._client = client
        self._attempt = attempt
        self._timeouts = timeouts
        self._loop = loop
        self._last_data = self._due = monotonic()
        self._excused = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.chunks = 0
        self.done: asyncio.Future[Failure | None] = loop.create_future()

    def on_head(self, head: UpstreamHead) -> None:
        raise AssertionError("the head came before the relay")

    def _watch(self) -> None:
        """Looks after silence and deadline, and goes on doing so."""
        raise NotImplementedError

    def _silence(self, now: float) -> float:
        """Seconds for which the backend has said nothing, of its own accord."""
        if self._client.write_paused:
            self._last_data = now  # the backend is held back by us
        if held_up(self._due, now) and self._last_data != self._excused:
            self._last_data = self._excused = now  # once for each silence: see `backends.held_up`
        return now - self._last_data

    def _watch_again(self, at: float, now: float) -> None:
        self._due = max(at, now + 0.01)
        self._timer = self._loop.call_at(self._due, self._watch)
