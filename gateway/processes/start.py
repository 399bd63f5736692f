"""Opens the sockets for several workers, and runs the parent."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from gateway.app import url_of
from gateway.config import Config
from gateway.config.base import split_listen
from gateway.observe.logs import configure
from gateway.processes.parent import Parent, log_lock
from gateway.processes.sockets import BACKLOG, bind, inherited, listening


async def serve_with_workers(
    path: Path, text: str, config: Config, port: int | None, on_ready: Callable[[str], None] | None
) -> int:
    """Runs the gateway until a signal ends it. Returns the exit code: 1 when the port is in use or no worker starts."""
    server = config.server
    wanted = f"{server.host}:{server.port if port is None else port}"
    admin: socket.socket | None = None
    try:
        sockets = _sockets(server.host, server.port if port is None else port, server.workers)
        if server.admin.listen is not None:
            wanted = server.admin.listen
            admin = bind(*split_listen(server.admin.listen))
            admin.listen(BACKLOG)
    except OSError as error:
        print(f"cannot listen on {wanted}: {error.strerror}", file=sys.stderr)
        return 1
    log = config.observability.log
    lock = log_lock()
    logs = configure(format=log.format, level=log.level, prompts=log.prompts, lock=lock.fileno())
    parent = Parent(path, text, config, sockets, admin, logs, lock)
    url = url_of(config, sockets[0])

    def ready() -> None:
        logs.logger.info("listening", url=url, backends=list(config.backends), workers=server.workers, pid=os.getpid())
        if on_ready is not None:
            on_ready(url)

    return await parent.run(ready)


def _sockets(host: str, port: int, count: int) -> list[socket.socket]:
    """One for each worker; one that was inherited is for all. Raises OSError."""
    given = inherited()
    if given is None:
        return listening(host, port, count)
    return [given, *(given.dup() for _ in range(count - 1))]
