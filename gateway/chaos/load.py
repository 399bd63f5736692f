"""A few clients that ask all the time, and what became of each request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

import aiohttp
import orjson

_TIMEOUT = 60.0
_PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request. Times are loop time in seconds; `error` is None for a whole answer, the rest as the gateway says."""

    begun: float
    ended: float
    backend: str
    attempts: int
    fallback: bool
    error: str | None


class Load:
    """Streams chat answers through the gateway over `clients` connections until `stop`."""

    def __init__(
        self, url: str, model: str, clients: int, on_outcome: Callable[[Outcome], None], key: str | None
    ) -> None:
        self._url = f"{url.rstrip('/')}/v1/chat/completions"
        self._model = model
        self._clients = clients
        self._on_outcome = on_outcome
        self._headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        self._tasks: list[asyncio.Task[None]] = []
        self.outcomes: list[Outcome] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self._clients)]

    async def stop(self) -> None:
        """Ends it; what is under way is not counted."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _client(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT)) as session:
            while True:
                outcome = await self._ask(session)
                self.outcomes.append(outcome)
                self._on_outcome(outcome)
                await asyncio.sleep(_PAUSE)

    async def _ask(self, session: aiohttp.ClientSession) -> Outcome:
        message = {"role": "user", "content": "Tell me a short story about the sea."}
        body: dict[str, Any] = {"model": self._model, "messages": [message], "max_tokens": 24, "stream": True}
        body["stream_options"] = {"include_usage": True}
        begun = monotonic()
        backend, attempts, fallback = "", 0, False
        try:
            async with session.post(self._url, json=body, headers=self._headers) as answer:
                backend = answer.headers.get("X-Seawall-Backend", "")
                attempts = int(answer.headers.get("X-Seawall-Attempts") or 0)
                fallback = answer.headers.get("X-Seawall-Fallback") == "true"
                error = _judge(answer.status, await answer.read())
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as failed:
            error = type(failed).__name__
        return Outcome(begun, monotonic(), backend, attempts, fallback, error)


def _judge(status: int, body: bytes) -> str | None:
    """None for a whole stream, else the error's type. A stream that just ends is the worst: it looks whole."""
    if status != 200:
        return _error_type(body) or f"status {status}"
    frames = [frame for frame in body.split(b"\n\n") if frame.startswith(b"data: ")]
    failed = next((found for frame in frames if (found := _error_type(frame[6:]))), None)
    if failed is not None:
        return f"{failed} inside the stream"
    return None if frames and frames[-1] == b"data: [DONE]" else "cut silently"


def _error_type(document: bytes) -> str | None:
    if b'"error"' not in document:
        return None
    try:
        found: Any = orjson.loads(document)["error"]
        return str(found["error_type"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
