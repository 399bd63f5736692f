"""The sockets that clients connect to: bound here, or inherited from whoever started the process."""

from __future__ import annotations

import os
import socket

#: Connections that the kernel completes and keeps until a worker takes them.
BACKLOG = 1024
#: First descriptor of socket activation (sd_listen_fds(3)).
_FIRST_INHERITED = 3


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A bound TCP socket; `shared` ones may be bound to the same port several times. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def inherited() -> socket.socket | None:
    """The listening socket that this process was started with (socket activation: `LISTEN_PID`, `LISTEN_FDS`), or None.

    It belongs to whoever made it, so that connections wait in it while one process goes and another comes, and several
    may take from it. Raises OSError when it is no listening TCP socket.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS", "0") == "0":
        return None
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    sock = socket.socket(fileno=_FIRST_INHERITED)
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise OSError(0, "the inherited socket is not a listening one")
    os.set_inheritable(_FIRST_INHERITED, False)
    return sock


def listening(host: str, port: int, count: int) -> list[socket.socket]:
    """`count` listening sockets on one port, among which the kernel divides the connections by a hash. Raises OSError.

    The first is bound alone for a moment, to notice a port that is in use: shared ones would quietly join its user.
    """
    probe = bind(host, port)
    probe.close()
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            sock = bind(host, sockets[0].getsockname()[1] if sockets else port, shared=True)
            sockets.append(sock)
            sock.listen(BACKLOG)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets
