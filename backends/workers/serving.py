"""What the workers of text and images have in common as servers: their life from the open socket to the drain."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from aiohttp import web

from backends.workers.ports import base_url, port_is_shared


class _Loaded(Protocol):
    @property
    def name(self) -> str: ...


class _Engine(Protocol):
    @property
    def dead(self) -> asyncio.Event: ...


L = TypeVar("L", bound=_Loaded)
E = TypeVar("E", bound=_Engine)
_Lc = TypeVar("_Lc", bound=_Loaded, contravariant=True)
_Ec = TypeVar("_Ec", bound=_Engine, contravariant=True)


class WorkerServer(Protocol[_Lc, _Ec]):
    """An application that answers 503 until `open` is entered with a model and what runs it."""

    def app(self) -> web.Application: ...

    def open(self, loaded: _Lc, engine: _Ec, /) -> AbstractAsyncContextManager[None]: ...


async def run(
    server: WorkerServer[L, E],
    load: Callable[[], L],
    new_engine: Callable[[L], E],
    host: str,
    port: int,
    stop: asyncio.Event,
    *,
    drain: float,
    lost: str,
) -> None:
    """Opens the socket, loads in a thread, serves until `stop` is set; then running requests have `drain` seconds.

    Raises RuntimeError, saying `lost`, if the engine dies.
    """
    runner = web.AppRunner(server.app(), access_log=None, handler_cancellation=True, shutdown_timeout=drain)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, reuse_port=port_is_shared() or None).start()
        loaded = await asyncio.get_running_loop().run_in_executor(None, load)
        engine = new_engine(loaded)
        async with server.open(loaded, engine):
            print(f"Serving {loaded.name} on {base_url(host, port)}", flush=True)
            ends = [asyncio.create_task(event.wait()) for event in (stop, engine.dead)]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
            await runner.cleanup()
        if engine.dead.is_set():
            raise RuntimeError(lost)
    finally:
        await runner.cleanup()


def time_limit(request: web.Request, most: float) -> float:
    """Seconds that the request may take: `most`, or less where its `X-Request-Timeout` says so."""
    with contextlib.suppress(ValueError):
        asked = float(request.headers.get("X-Request-Timeout", ""))
        if asked > 0:
            return min(asked, most)
    return most
