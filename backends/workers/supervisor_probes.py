"""Asking a server whether it is well."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from backends.held_up import patient_timeout

Probe = Callable[[], Awaitable[object]]
"""Returns when all is well; raises, with a message for operators, when it is not."""


_CONNECT_TIMEOUT = 1.0
_LISTEN = "0A"  # TCP_LISTEN, as /proc/net/tcp writes it


class ProbeFailedError(Exception):
    """A health check got no 200."""


async def check_http(url: str) -> None:
    """A GET of a plain-HTTP URL. Raises ProbeFailedError unless it gives 200, OSError when nothing answers."""
    parts = urlsplit(url)
    target = parts.path or "/"
    reader, writer = await asyncio.open_connection(*address(url))
    try:
        writer.write(f"GET {target} HTTP/1.1\r\nhost: {parts.netloc}\r\nconnection: close\r\n\r\n".encode())
        status = (await reader.readline()).split(b" ", 2)[1:2]
        if status != [b"200"]:
            said = status[0].decode("latin-1")[:20] if status else "nothing"
            raise ProbeFailedError(f"GET {target} answered {said}")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def problem_of(probe: Probe, timeout: float) -> str | None:
    """Why a probe failed, or None."""
    try:
        async with patient_timeout(timeout):
            await probe()
    except TimeoutError:
        return f"no answer within {timeout:g} s"
    except Exception as error:  # a probe may be anyone's code: no failure of it may end the supervision
        return str(error) or type(error).__name__
    return None


async def listening(host: str, port: int) -> bool:
    """Whether anything accepts connections there."""
    try:
        async with patient_timeout(_CONNECT_TIMEOUT):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def listeners(port: int) -> int:
    """How many sockets listen on a port of this machine, on whatever address. Linux; elsewhere 0."""
    local, count = f":{port:04X}", 0
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
                fields = line.split(None, 4)
                count += fields[3] == _LISTEN and fields[1].endswith(local)
    return count


def address(url: str) -> tuple[str, int]:
    """Host and port of an HTTP URL."""
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 80
