"""What is broken: the process behind a backend, and only if it is that."""

from __future__ import annotations

import contextlib
import os
import signal
from urllib.parse import urlsplit

import psutil

from gateway.chaos.how import How


class NotThatProcess(Exception):  # noqa: N818 - it says what is wrong
    """A process is not the one behind the backend; the message says why."""


def behind(url: str, pid: int | None) -> int:
    """The process to break for a backend at `url`: the one that listens there, which must be `pid` or of its children.

    Raises NotThatProcess.
    """
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise NotThatProcess(f"{url} is not on this machine")
    candidates = _family(pid) if pid is not None else list(psutil.process_iter())
    for process in candidates:
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return int(process.pid)
    whom = f"process {pid}" if pid is not None else "no process that may be looked at"
    raise NotThatProcess(f"{whom} listens on port {port}" if pid is None else f"{whom} does not listen on port {port}")


def strike(how: How, pid: int) -> None:
    """Breaks it. Raises ProcessLookupError, PermissionError."""
    os.kill(pid, signal.SIGKILL if how is How.KILL else signal.SIGSTOP)


def release(how: How, pid: int) -> None:
    """Lets a frozen process go on."""
    if how is How.FREEZE:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGCONT)


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []
