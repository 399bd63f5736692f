from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.config import load_text
from gateway.observe.error_stats import ErrorStats
from gateway.processes.parent import Parent, log_lock

TEXT = "backends: {a: {url: 'http://127.0.0.1:1'}}\nroutes: [{model: m, backends: [a]}]\n"


class Log:
    """What was logged: events and their fields."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def error(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    info = warning = error


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def parent(log: Log, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Parent]:
    """That of two workers; no process can be made."""

    async def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refused)
    logs: Any = SimpleNamespace(logger=log, close=lambda: None)
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        lock = stack.enter_context(log_lock())
        parent = Parent(tmp_path / "gateway.yaml", TEXT, load_text(TEXT), sockets, None, logs, lock)
        yield parent
        for end in parent._handover:
            end.close()


async def test_a_process_that_cannot_be_made_is_a_worker_that_failed_to_start(parent: Parent, log: Log) -> None:
    async with asyncio.timeout(5):
        assert await parent.run(lambda: None) == 1
    assert [event for event, _ in log.lines] == ["worker_failed_to_start"] * 2 + ["cannot_start"]
    assert log.lines[0][1]["reason"] == "no process can be made: Resource temporarily unavailable"


async def test_a_task_that_fails_is_logged(parent: Parent, log: Log) -> None:
    async def failing() -> None:
        raise ValueError("x")

    await asyncio.wait([parent._spawn(failing())])
    await asyncio.sleep(0)
    [(event, fields)] = log.lines
    assert (event, str(fields["exc_info"])) == ("internal_error", "x")


async def test_what_a_worker_told_with_its_pulse_outlives_it(parent: Parent) -> None:
    async def pulse(operation: str, timeout: float = 0.0) -> Any:
        return {"errors": ErrorStats().export(), "routes": {"m": {"ok": 3, "retries": 0, "errors": {}}}}

    child: Any = SimpleNamespace(channel=SimpleNamespace(ask=pulse), metrics={}, tally={}, alive=True, retired=False)
    await parent._pulse(child)
    parent._retire(child)
    [gone] = await parent._asked(child, "others", {"op": "gone", "args": {}})
    assert gone["routes"]["m"]["ok"] == 3
    [errors] = await parent._asked(child, "others", {"op": "errors", "args": {}})
    assert errors["totals"] == {}
