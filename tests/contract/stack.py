"""A gateway before one server, for tests of one request at a time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.support.echo import Echo, echo
from tests.support.fault_backend import FaultBackend
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.raw_http import RawAnswer, talk

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "count"}], "max_tokens": 8}
#: Short times, one attempt, no waiting: what goes wrong is told at once.
QUICK = """
policies:
  default:
    timeout: {connect: 300ms, first_token: 300ms, idle: 300ms, total: 2s}
    retry: {attempts: 1}
    circuit_breaker: {consecutive_failures: 100, min_requests: 1000}
    admission: {max_wait: 0s}
"""


@dataclass
class Stack:
    """A running gateway and the port that raw sockets go to."""

    gateway: RunningGateway

    @property
    def port(self) -> int:
        return int(self.gateway.url.rpartition(":")[2])

    async def raw(self, *pieces: bytes, timeout: float = 10.0) -> list[RawAnswer]:
        """Sends bytes and reads until the gateway closes."""
        return await talk(self.port, *pieces, timeout=timeout)


def config(url: str, *, server: str = "", kind: str = "vllm", more: str = QUICK) -> str:
    """A gateway.yaml whose models `tiny` and `picture` are at one server, with an operators' listener shared."""
    return (
        f"server: {{listen: '127.0.0.1:0', {server}}}\n"
        f"backends: {{b: {{url: '{url}', kind: {kind}}}, p: {{url: '{url}', kind: diffusers}}}}\n"
        f"routes: [{{model: tiny, backends: [b]}}, {{model: picture, backends: [p]}}]\n{more}"
    )


@asynccontextmanager
async def before_faults(server: str = "", more: str = QUICK) -> AsyncIterator[tuple[Stack, FaultBackend]]:
    """A gateway before a counting model."""
    async with FaultBackend() as backend, running_gateway(config(backend.url, server=server, more=more)) as gateway:
        yield Stack(gateway), backend


@asynccontextmanager
async def before_echo(server: str = "", more: str = QUICK) -> AsyncIterator[tuple[Stack, Echo]]:
    """A gateway before a server that has every path."""
    async with (
        echo() as backend,
        running_gateway(config(backend.url, server=server, kind="openai", more=more)) as gateway,
    ):
        yield Stack(gateway), backend


def request(
    method: str = "POST",
    path: str = "/v1/chat/completions",
    body: object = None,
    *,
    version: str = "1.1",
    **headers: str,
) -> bytes:
    """The bytes of a request that asks to close; underscores in header names stand for hyphens."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"host": "gateway", "connection": "close", "content-type": "application/json"}
    lines |= {"content-length": str(len(data))} if data else {}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"{method} {path} HTTP/{version}\r\n{head}\r\n".encode() + data
