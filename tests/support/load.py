"""A steady load of chat requests on keep-alive connections, each answer checked to the byte."""

from __future__ import annotations

import asyncio
import itertools
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import orjson

from tests.support.counting_model import count_text

TOKENS = 6
_RIGHT = count_text(1, TOKENS)


@dataclass
class Load:
    """What the clients met. `failures` says how a request failed; there is no retry."""

    good: int = 0
    failures: list[str] = field(default_factory=list)


@asynccontextmanager
async def load_on(
    url: str, *, clients: int = 12, pause: float = 0.02, seed: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Load]:
    """`clients` that ask the model `tiny` one request after the other until the block ends, every third one streamed.

    Each has a connection of its own, which it keeps as long as the server does; between requests it is idle for up to
    `pause` seconds, so that closes and requests can cross.
    """
    load = Load()
    stop = asyncio.Event()
    rng = random.Random(seed)
    tasks = [asyncio.create_task(_client(url, load, stop, pause, rng, tls)) for _ in range(clients)]
    try:
        yield load
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def _client(
    url: str, load: Load, stop: asyncio.Event, pause: float, rng: random.Random, tls: ssl.SSLContext | None
) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1, ssl=tls or True)) as session:
        for number in itertools.count():
            if stop.is_set():
                return
            try:
                async with asyncio.timeout(20):
                    await _ask(session, url, stream=number % 3 == 2)
                load.good += 1
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, AssertionError) as error:
                load.failures.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(rng.random() * pause)


async def _ask(session: aiohttp.ClientSession, url: str, *, stream: bool) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "count"}], "max_tokens": TOKENS, "stream": stream}
    async with session.post(url + "/v1/chat/completions", json=body) as answer:
        data = await answer.read()
    assert answer.status == 200, data[:300]
    if not stream:
        text = orjson.loads(data)["choices"][0]["message"]["content"]
    else:
        frames = [frame[6:] for frame in data.split(b"\n\n") if frame]
        assert frames[-1] == b"[DONE]", data[-300:]
        deltas = [choice["delta"] for frame in frames[:-1] for choice in orjson.loads(frame)["choices"]]
        text = "".join(delta.get("content") or "" for delta in deltas)
    assert text == _RIGHT, text
