"""Answers on a server's port while the server itself is down, so that "it is loading" is not "nobody is there".

On Linux two processes of one user may listen on one port if both set SO_REUSEPORT (vLLM's server does). So the stand-in
can hold the port while the server loads, and leaves when the server listens: there is no moment at which a
connection is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
from collections.abc import Callable

from aiohttp import web

from backends.workers.supervisor_http import answer_for_one
from backends.workers.supervisor_probes import listeners, listening
from backends.workers.supervisor_state import WorkerSnapshot

_BACKLOG = 1024
_SHUTDOWN_TIMEOUT = 1.0
_ACCEPT_TIME = 0.05
_SO_ATTACH_REUSEPORT_CBPF = 51  # <asm/socket.h>
_RETURN_SECOND = struct.pack("=HBBI", 0x06, 0, 0, 1)  # struct sock_filter {BPF_RET | BPF_K, 0, 0, 1}


class StandIn:
    """Holds a port between `open` and `close`, any number of times."""

    def __init__(self, host: str, port: int, snapshot: Callable[[], WorkerSnapshot]) -> None:
        self._host = host
        self._port = port
        self._snapshot = snapshot
        self._runner: web.ServerRunner | None = None
        self._sock: socket.socket | None = None
        #: Sockets that listen on the port without the server's: its own, and any on another address.
        self.listeners = 0

    @property
    def is_open(self) -> bool:
        """Whether it answers."""
        return self._runner is not None

    async def open(self) -> None:
        """Answers from now on. Does nothing where somebody else has the port."""
        if self.is_open or await listening(self._host, self._port):
            return
        try:
            sock = await self._bound()
        except OSError:
            return
        runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=_SHUTDOWN_TIMEOUT)
        await runner.setup()
        await web.SockSite(runner, sock, backlog=_BACKLOG).start()
        self.listeners = listeners(self._port)
        self._runner, self._sock = runner, sock

    async def hand_over(self) -> None:
        """Gives the port up to a server that listens on it by now; whoever has connected here is still answered."""
        if self._sock is not None:
            with contextlib.suppress(OSError):  # without it, a connection that waits to be accepted may be reset
                _send_new_to_the_second(self._sock)
                await asyncio.sleep(_ACCEPT_TIME)
        await self.close()

    async def close(self) -> None:
        """Gives the port up."""
        self._sock = None
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def _bound(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "SO_REUSEPORT"):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(address)
        except OSError:
            sock.close()
            raise
        return sock

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        return answer_for_one(request.path, self._snapshot())


def _send_new_to_the_second(sock: socket.socket) -> None:
    """New connections to a shared port go to the socket that came to listen there second. Linux; raises OSError.

    The program, a single `return 1`, stays with the port's sockets; once one is left the kernel finds no second and
    takes that one.
    """
    program = ctypes.create_string_buffer(_RETURN_SECOND, len(_RETURN_SECOND))
    described = struct.pack("@HP", 1, ctypes.addressof(program))  # struct sock_fprog
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, described)
