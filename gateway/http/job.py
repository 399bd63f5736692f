"""Runs a request's coroutine without a task: straight on in the callback that brings what it waits for.

A task costs its making, a turn of the loop before its first step and another for each future that it awaits. A request
has one first step and, mostly, one wait; both follow from a callback of the loop that may as well run the coroutine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any


class Signal:
    """What one coroutine of a `Job` awaits until `set` is called; that runs it on, before `set` returns.

    A signal that was set before it is awaited does not wait.
    """

    __slots__ = ("_job", "is_set")

    def __init__(self) -> None:
        self._job: Job | None = None
        self.is_set = False

    def set(self) -> None:
        """May be called again; only the first call counts."""
        if not self.is_set:
            self.is_set = True
            job, self._job = self._job, None
            if job is not None:
                job.go_on(self)

    def __await__(self) -> Generator[Signal, None, None]:
        if not self.is_set:
            yield self

    def awaited_by(self, job: Job) -> None:
        self._job = job


class Job:
    """One coroutine under way. It may await signals and futures of the loop; no asyncio.timeout, which wants a task."""

    __slots__ = ("_awaited", "_cancelled", "_coroutine", "_loop", "done")

    def __init__(self, coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> None:
        self._coroutine = coroutine
        self._loop = loop
        self._awaited: Signal | asyncio.Future[Any] | None = None
        self._cancelled = False
        self.done = False

    def start(self) -> None:
        """Runs it to its first wait."""
        self._step()

    def go_on(self, awaited: Signal | asyncio.Future[Any]) -> None:
        """What it waited for has come."""
        if awaited is self._awaited:
            self._step()

    def cancel(self) -> None:
        """Raises CancelledError in it, on the loop's next turn; in a running one at its next wait."""
        if self.done or self._cancelled:
            return
        self._cancelled = True
        awaited = self._awaited
        if awaited is not None:
            self._awaited = None  # what it waited for comes too late now
            if not isinstance(awaited, Signal):
                awaited.cancel()
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        self._awaited = None
        try:
            if self._cancelled:
                self._cancelled = False
                awaited = self._coroutine.throw(asyncio.CancelledError())
            else:
                awaited = self._coroutine.send(None)
        except (StopIteration, asyncio.CancelledError):
            self.done = True
        except Exception as error:
            self.done = True
            self._loop.call_exception_handler({"message": "a request's coroutine failed", "exception": error})
        else:
            self._wait_for(awaited)

    def _wait_for(self, awaited: Any) -> None:
        if self._cancelled or awaited is None:  # cancelled while it ran, or a bare yield such as sleep(0)'s
            if awaited is not None and not isinstance(awaited, Signal):
                awaited.cancel()
            self._loop.call_soon(self._step)
            return
        self._awaited = awaited
        if type(awaited) is Signal:
            awaited.awaited_by(self)
        else:
            awaited._asyncio_future_blocking = False  # the handshake between a future and who awaits it
            awaited.add_done_callback(self.go_on)
