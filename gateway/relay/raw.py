"""Passes the rest of an answer on that is bytes to Seawall: sound, pictures, or what is too large to be judged."""

from __future__ import annotations

import asyncio
from time import monotonic

from backends.dialect import Usage
from backends.held_up import held_up
from gateway.attempt import Attempt
from gateway.http.connection import ClientConnection
from gateway.relay.timeouts import StreamTimeouts
from gateway.upstream.connection import Break, UpstreamHead
from policies.outcome import ErrorKind, Failure


class RawRelay:
    """A sink that passes bytes on unlooked at, with a watch on silence. `done` as for `StreamRelay`."""

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
        self.chunks = 0  # nothing is known of these bytes
        self.done: asyncio.Future[Failure | None] = loop.create_future()

    def begin(self) -> None:
        """Writes what the attempt held back and takes the exchange over."""
        self._client.write(self._attempt.held)
        self._watch()
        self._attempt.hand_over(self)

    def on_head(self, head: UpstreamHead) -> None:
        raise AssertionError("the head came before the relay")

    def on_data(self, data: bytes) -> None:
        self._last_data = monotonic()
        self._client.write(data)

    def on_end(self) -> None:
        self._resolve(None)

    def on_broken(self, reason: Break, detail: str) -> None:
        self._resolve(Failure(ErrorKind.GENERATION_FAILED, f"{reason.value}: {detail}"))

    def usage(self) -> Usage | None:
        """Nothing is known of these bytes."""
        return None

    @property
    def tokens(self) -> int:
        """Its pieces."""
        return self.chunks

    def close(self) -> None:
        """Ends the relay from outside: the client left."""
        self._resolve(Failure(ErrorKind.CLIENT_DISCONNECTED))

    def _watch(self) -> None:
        timeouts, now = self._timeouts, monotonic()
        if self._client.write_paused:
            self._last_data = now  # the backend is held back by us
        if held_up(self._due, now) and self._last_data != self._excused:
            self._last_data = self._excused = now
        if now >= timeouts.deadline:
            self._resolve(timeouts.out_of_time())
        elif now >= self._last_data + timeouts.idle:
            evidence = f"no data for {timeouts.idle:g} s in the middle of the answer"
            self._resolve(Failure(ErrorKind.INFERENCE_TIMEOUT, evidence))
        else:
            self._due = max(min(self._last_data + timeouts.idle, timeouts.deadline), now + 0.01)
            self._timer = self._loop.call_at(self._due, self._watch)

    def _resolve(self, failure: Failure | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.done.done():
            if failure is not None:
                self._attempt.cancel()
            self.done.set_result(failure)
