"""Passes the rest of an answer on that is bytes to Seawall: sound, pictures, or what is too large to be judged."""

from __future__ import annotations

from time import monotonic

from backends.dialect import Usage
from gateway.relay.relay import Relay
from gateway.upstream.connection import Break
from policies.outcome import ErrorKind, Failure


class RawRelay(Relay):
    """Passes bytes on unlooked at."""

    __slots__ = ()

    def begin(self) -> None:
        """Writes what the attempt held back and takes the exchange over."""
        self._client.write(self._attempt.held)
        self._watch()
        self._attempt.hand_over(self)

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
        self._silence(now)
        if now >= timeouts.deadline:
            self._resolve(timeouts.out_of_time())
        elif now >= self._last_data + timeouts.idle:
            evidence = f"no data for {timeouts.idle:g} s in the middle of the answer"
            self._resolve(Failure(ErrorKind.INFERENCE_TIMEOUT, evidence))
        else:
            self._watch_again(min(self._last_data + timeouts.idle, timeouts.deadline), now)

    def _resolve(self, failure: Failure | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.done.done():
            if failure is not None:
                self._attempt.cancel()
            self.done.set_result(failure)
