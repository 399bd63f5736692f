"""A worker process: one gateway, told by the parent what to serve and when to go.

Started as `python -m gateway.processes.worker` with the descriptors that it inherits. It never outlives the parent:
when the channel ends, it drains.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from gateway.app import Gateway, loop_factory
from gateway.config import ConfigError, load_text
from gateway.long_lived import LongLived
from gateway.processes.answers import OPERATIONS
from gateway.processes.channel import Channel, PeerError
from gateway.processes.handover import Handover
from gateway.processes.peers import Siblings
from gateway.processes.tally import tally
from gateway.runtime import Runtime


class Worker:
    """One worker's side of the conversation with the parent."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._gateway: Gateway | None = None
        self._prepared: Runtime | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._done = asyncio.Event()
        self._sockets = {number: socket.socket(fileno=fd) for number, fd in enumerate(options.listen)}
        self._admin = socket.socket(fileno=options.admin) if options.admin is not None else None
        self._extra: dict[int, asyncio.Server] = {}
        self._handover: Handover | None = None
        self._channel: Channel = None  # type: ignore[assignment]  # set by run

    async def run(self) -> int:
        """Serves until the parent wants it to stop, or is gone."""
        loop = asyncio.get_running_loop()
        for number in (
            signal.SIGINT,
            signal.SIGHUP,
            signal.SIGUSR2,
        ):  # these reach a whole terminal or group: the parent's matter
            signal.signal(number, signal.SIG_IGN)
        self._channel = await Channel.over(socket.socket(fileno=self._options.control), self._handle)
        loop.add_signal_handler(signal.SIGTERM, self._channel.tell, "replace")
        gone = loop.create_task(self._channel.closed.wait())
        done = loop.create_task(self._done.wait())
        await asyncio.wait((gone, done), return_when=asyncio.FIRST_COMPLETED)
        if not self._done.is_set() and self._gateway is not None:
            await self._gateway.stop(delay=self._gateway.runtime.config.server.drain_delay)
        await self._channel.flush()
        self._channel.close()
        return 0

    async def _handle(self, operation: str, arguments: dict[str, Any]) -> Any:
        if operation in OPERATIONS:
            answer = OPERATIONS[operation](self._running, **arguments)
            return await answer if isinstance(answer, Awaitable) else answer
        return await getattr(self, f"_do_{operation}")(**arguments)

    @property
    def _running(self) -> Gateway:
        if self._gateway is None:
            raise PeerError("it has not started yet")
        return self._gateway

    # -- what the parent asks for --------------------------------------------------------------------------------------

    async def _do_start(self, text: str, path: str) -> None:
        options = self._options
        config = load_text(text, path)
        gateway = Gateway(config, Path(path), Siblings(options.number, self._channel), log_lock=options.log_lock)
        give, take = (socket.socket(fileno=fd) for fd in options.handover)
        self._handover = Handover(give, take, gateway.server.adopt)
        await gateway.start(self._sockets[options.number].dup(), self._admin)
        self._handover.start()
        gateway.long_lived = LongLived()
        self._gateway = gateway

    async def _do_prepare(self, text: str, path: str) -> list[str]:
        """Builds another configuration without serving it; gives what stands in the way."""
        try:
            self._prepared = self._running.prepare(load_text(text, path))
        except ConfigError as error:
            return [str(problem) for problem in error.problems]
        except OSError as error:
            return [f"{error.filename}: {error.strerror}"]
        return []

    async def _do_commit(self) -> None:
        """Serves what was prepared."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            self._running.swap(prepared)

    async def _do_abort(self) -> None:
        """Forgets what was prepared: it is not going to be served."""
        self._prepared = None
        self._running.metrics.reloaded(False)

    async def _do_workers(self, serving: int, wanted: int, restarts: int) -> None:
        """How many of the workers serve."""
        self._running.workers_changed(serving, wanted, restarts)

    async def _do_listen(self, number: int) -> None:
        """Takes connections of a worker that is not there, too."""
        if number not in self._extra and not self._running.draining:
            self._extra[number] = await self._running.server.also_listen(self._sockets[number].dup())

    async def _do_unlisten(self, number: int) -> None:
        server = self._extra.pop(number, None)
        if server is not None:
            server.close()

    async def _do_leave(self) -> None:
        """Goes, with other workers there to go on: new connections and idle ones are theirs."""
        gateway = self._running
        assert self._handover is not None
        self._handover.stop()
        give = self._handover.give if gateway.runtime.config.server.tls is None else None
        self._stop(gateway.leave(give))

    async def _do_drain(self, delay: float) -> None:
        """Goes, like all others."""
        assert self._handover is not None
        self._handover.stop()
        if self._stopping is None:
            self._stop(self._running.stop(delay=delay))
        else:
            self._running.server.keep_none()

    async def _do_pulse(self) -> dict[str, Any]:
        """Its loop turns, as this ran; tells what it has answered so far."""
        return tally(self._running)

    async def _do_hurry(self) -> None:
        self._running.hurry()

    def _stop(self, stopping: Any) -> None:
        for server in self._extra.values():
            server.close()

        async def run() -> None:
            try:
                await stopping
            finally:
                self._channel.tell("last", {"metrics": self._running.metrics.snapshot(), "tally": tally(self._running)})
                self._done.set()

        self._stopping = asyncio.get_running_loop().create_task(run())


def main() -> int:
    """The entry point."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--listen", type=int, nargs="+", required=True)
    parser.add_argument("--handover", type=int, nargs=2, required=True)
    parser.add_argument("--log-lock", type=int, required=True)
    parser.add_argument("--admin", type=int)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(Worker(options).run())


if __name__ == "__main__":
    sys.exit(main())
