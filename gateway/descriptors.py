"""How many files the process may have open, and how many of them clients may take.

Connections of clients, each idle for a minute, must not take the last descriptor: without one for its backend no
request is answered, and without one for the next client nobody is told so.
"""

from __future__ import annotations

import contextlib
import resource

from gateway.config import Config

#: Descriptors for what is neither a client's nor a backend's connection.
SPARE = 100


def raise_limit() -> None:
    """Raises the soft limit of open files to the hard one, as a shell's default of 1,024 is for programs that wait with
    `select`. What is started from here inherits it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):  # macOS has no limit and sets none
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def allowed() -> int | None:
    """Files that the process may have open; None where there is no limit."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def for_backends(config: Config) -> int:
    """Connections that backends may have, all together."""
    return sum(min(one.connections, one.max_concurrency or one.connections) for one in config.backends.values())


def for_clients(config: Config, limit: int | None) -> int:
    """Client connections: `server.max_connections`, or what `limit` leaves of it beside those to backends.

    Those get half of what there is at most: a request has one of each.
    """
    most = config.server.max_connections
    if limit is None:
        return most
    rest = max(2, limit - SPARE)
    return min(most, rest - min(for_backends(config), rest // 2))
