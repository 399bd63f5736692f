"""An attempt never touches a connection that carries somebody else's exchange by now."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gateway.attempt import Attempt


class Connection:
    """As much of an upstream connection as an attempt uses."""

    def __init__(self) -> None:
        self.sink: Any = None
        self.calls: list[str] = []

    def send(self, sink: Any, head: bytes, body: bytes) -> None:
        self.sink = sink

    def abort(self) -> None:
        self.calls.append("abort")
        self.sink = None

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")


def asked(connection: Connection) -> Attempt:
    pool = SimpleNamespace(loop=None, take=lambda: connection)
    candidate: Any = SimpleNamespace(endpoint=SimpleNamespace(pool=pool))
    attempt = Attempt(candidate, "/v1/chat/completions", b"", b"", lambda attempt: None, None)
    attempt.start(1.0)
    return attempt


@pytest.mark.parametrize("what", ["cancel", "pause", "resume"])
def test_it_acts_on_its_connection_while_that_carries_its_exchange(what: str) -> None:
    connection = Connection()
    attempt = asked(connection)
    attempt.hand_over(relay := SimpleNamespace())  # type: ignore[arg-type]
    assert connection.sink is relay
    getattr(attempt, what)()
    assert connection.calls == [what.replace("cancel", "abort")]


@pytest.mark.parametrize("what", ["cancel", "pause", "resume"])
@pytest.mark.parametrize("reused", [False, True])
def test_when_its_stream_has_ended_the_connection_is_another_requests(what: str, reused: bool) -> None:
    connection = Connection()
    attempt = asked(connection)
    attempt.hand_over(SimpleNamespace())  # type: ignore[arg-type]
    connection.sink = None  # the answer is whole: the connection went back to its pool
    if reused:
        other = asked(connection)
    getattr(attempt, what)()
    assert connection.calls == []
    assert connection.sink is (other if reused else None)
