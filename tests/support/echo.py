"""A server with every path: it answers what it is told to and keeps what it was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web


@dataclass
class Echo:
    """`seen` are the requests but for health checks; `answers` bodies by path, where `{"path": …}` would not do."""

    url: str = ""
    seen: list[Asked] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)

    async def handle(self, request: web.Request) -> web.Response:
        """Answers any request."""
        body = await request.read()
        if not request.headers.get("user-agent", "").startswith("seawall-probe"):
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.seen.append(Asked(request.method, request.path_qs, headers, body))
        answer = self.answers.get(request.path, {"path": request.path})
        if isinstance(answer, bytes):
            return web.Response(body=answer, content_type="audio/mpeg")
        return web.Response(body=orjson.dumps(answer), content_type="application/json")


@dataclass(frozen=True)
class Asked:
    """One request; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@asynccontextmanager
async def echo() -> AsyncIterator[Echo]:
    """Serves on a free port until the block ends."""
    backend = Echo()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", backend.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    backend.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield backend
    finally:
        await runner.cleanup()
