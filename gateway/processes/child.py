"""A worker process as the parent sees it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.observe.exposition import Snapshot
from gateway.processes.channel import Channel
from gateway.processes.tally import Tally

Asked = Callable[["Child", str, dict[str, Any]], Awaitable[Any]]


class Child:
    """One process. `ended` is done when it is gone; `metrics` and `tally` are the numbers it last told."""

    def __init__(self, number: int, process: asyncio.subprocess.Process) -> None:
        self.number = number
        self.metrics: Snapshot = {}
        self.tally: Tally = {}
        self.retired = False  # its numbers are in the totals
        self.channel: Channel = None  # type: ignore[assignment]  # set by spawn
        self._process = process
        self.ended: asyncio.Task[int] = asyncio.get_running_loop().create_task(process.wait())

    @classmethod
    async def spawn(
        cls,
        number: int,
        sockets: list[socket.socket],
        handover: tuple[socket.socket, socket.socket],
        log_lock: int,
        admin: socket.socket | None,
        asked: Asked,
    ) -> Child:
        """Starts a worker. A program of its own, not a fork: nothing of the parent's state gets in, and a new version
        of the code does. Raises OSError when no process can be made."""
        ours, theirs = socket.socketpair()
        listen = [sock.fileno() for sock in sockets]
        ends = [end.fileno() for end in handover]
        arguments = ["--number", number, "--control", theirs.fileno(), "--listen", *listen, "--handover", *ends]
        arguments += ["--log-lock", log_lock]
        descriptors = [theirs.fileno(), *listen, *ends, log_lock]
        if admin is not None:
            arguments += ["--admin", admin.fileno()]
            descriptors.append(admin.fileno())
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway.processes.worker", *map(str, arguments), pass_fds=descriptors
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        child = cls(number, process)
        child.channel = await Channel.over(ours, lambda operation, given: asked(child, operation, given))
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    @property
    def status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    def kill(self) -> None:
        """SIGKILL, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            if self.alive:
                self._process.kill()
