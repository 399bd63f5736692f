"""Questions and answers between the parent and one worker, both ways, over a pair of sockets.

A message is a length (4 bytes, big-endian) and JSON. Either side is trusted: they are one program.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from backends.held_up import patient_timeout

#: Bytes of a message; more than any snapshot of the metrics has.
MAX_MESSAGE = 256 * 2**20
#: Handles (operation, arguments) and gives the answer, a JSON value.
Handler = Callable[[str, dict[str, Any]], Awaitable[Any]]


class PeerError(Exception):
    """The other side could not do what it was asked for, or is gone; the text says why."""


class Channel:
    """One end. `closed` is set when the other side is gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler) -> None:
        self.closed = asyncio.Event()
        self._reader = reader
        self._writer = writer
        self._handler = handler
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._read(), name="channel")

    @classmethod
    async def over(cls, sock: socket.socket, handler: Handler) -> Channel:
        """Takes over one end of a pair of stream sockets."""
        sock.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=sock), handler)

    async def ask(self, operation: str, arguments: dict[str, Any] | None = None, timeout: float = 5.0) -> Any:
        """The other side's answer. Raises PeerError, also when it does not come within `timeout` seconds."""
        if self.closed.is_set():
            raise PeerError("the process is gone")
        self._number += 1
        number = self._number
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({"ask": number, "op": operation, "args": arguments or {}})
            async with patient_timeout(timeout):
                return await answer
        except TimeoutError:
            raise PeerError(f"no answer to '{operation}' within {timeout:g} s") from None
        finally:
            del self._waiting[number]

    def tell(self, operation: str, arguments: dict[str, Any] | None = None) -> None:
        """Sends what needs no answer."""
        if not self.closed.is_set():
            self._send({"op": operation, "args": arguments or {}})

    async def flush(self) -> None:
        """Waits until what was sent has gone out, or can't."""
        with contextlib.suppress(ConnectionError, OSError):
            await self._writer.drain()

    def close(self) -> None:
        """Ends the channel."""
        self._task.cancel()
        self._gone()

    def _send(self, message: dict[str, Any]) -> None:
        data = orjson.dumps(message)
        self._writer.write(len(data).to_bytes(4, "big") + data)

    async def _read(self) -> None:
        try:
            while True:
                size = int.from_bytes(await self._reader.readexactly(4), "big")
                if size > MAX_MESSAGE:
                    return
                self._take(orjson.loads(await self._reader.readexactly(size)))
        except (asyncio.IncompleteReadError, ConnectionError, OSError):
            pass
        finally:
            self._gone()

    def _take(self, message: dict[str, Any]) -> None:
        if "op" in message:
            task = asyncio.create_task(self._answer(message))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            return
        waiting = self._waiting.get(message["answer"])
        if waiting is not None and not waiting.done():
            if "error" in message:
                waiting.set_exception(PeerError(message["error"]))
            else:
                waiting.set_result(message["value"])

    async def _answer(self, message: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"answer": message.get("ask")}
        try:
            reply["value"] = await self._handler(message["op"], message["args"])
        except Exception as error:
            reply["error"] = str(error) or type(error).__name__
        if "ask" in message and not self.closed.is_set():
            self._send(reply)

    def _gone(self) -> None:
        self.closed.set()
        self._writer.close()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(PeerError("the process is gone"))
