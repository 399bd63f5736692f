"""Runs a Python program with SO_REUSEPORT on the sockets it binds to one port: a stand-in can hold that port too.

Run by path, with the program's own interpreter: `python supervisor_share_port.py PORT PROGRAM ARGUMENT…`. vLLM binds
its port before it loads the model and listens on it when it is done, without the option: nobody else could answer there
in between. The option has to be set before `bind`, and there is no flag for it.
"""

from __future__ import annotations

import runpy
import socket
import sys
from typing import Any


def share(port: int) -> None:
    """From now on, TCP sockets of this process that are bound to `port` share it with others of the same user."""
    bind = socket.socket.bind

    def shared(sock: socket.socket, address: Any) -> None:
        internet = sock.family in (socket.AF_INET, socket.AF_INET6)
        if internet and sock.type == socket.SOCK_STREAM and address[1] == port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bind(sock, address)

    socket.socket.bind = shared  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    del sys.path[0]  # this file's directory: its modules are not the program's
    share(int(sys.argv[1]))
    program = sys.argv[2]
    sys.argv = sys.argv[2:]
    runpy.run_path(program, run_name="__main__")
