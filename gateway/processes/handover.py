"""Idle keep-alive connections of a worker that leaves, given to the others.

Closing them would break requests that are on their way at that moment. Instead the socket itself goes to another
worker (SCM_RIGHTS), which reads whatever comes on it. All workers share one pair of sockets for it: who leaves writes,
and one of the others takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable


def pair() -> tuple[socket.socket, socket.socket]:
    """(the end to give to, the end to take from)."""
    give, take = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    give.setblocking(False)
    take.setblocking(False)
    return give, take


class Handover:
    """One worker's side of it. `taken` gets each socket that comes."""

    def __init__(self, give: socket.socket, take: socket.socket, taken: Callable[[socket.socket], None]) -> None:
        self._give = give
        self._take = take
        self._taken = taken
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Takes what others give from now on."""
        self._loop.add_reader(self._take.fileno(), self._readable)

    def stop(self) -> None:
        """Takes no more."""
        self._loop.remove_reader(self._take.fileno())

    def give(self, descriptor: int) -> bool:
        """Gives a copy of a connection's descriptor away; False when the others have not yet taken the ones before."""
        try:
            return socket.send_fds(self._give, [b"c"], [descriptor]) == 1
        except (BlockingIOError, OSError):
            return False

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # another worker was faster
            _, descriptors, _, _ = socket.recv_fds(self._take, 1, 1)
            for descriptor in descriptors:
                self._took(descriptor)

    def _took(self, descriptor: int) -> None:
        try:
            sock = socket.socket(fileno=descriptor)
        except OSError:
            os.close(descriptor)
            return
        sock.setblocking(False)
        self._taken(sock)
