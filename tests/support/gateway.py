"""A whole gateway in the test's own loop, on a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from gateway.app import Gateway, bind
from gateway.config import load_text


@dataclass
class RunningGateway:
    """A serving gateway and a client session bound to it."""

    gateway: Gateway
    url: str
    session: aiohttp.ClientSession

    async def chat(self, *, stream: bool = False, headers: dict[str, str] | None = None, **fields: object) -> Answer:
        """One chat request to the model `tiny`; the whole answer."""
        body = {"model": "tiny", "messages": [{"role": "user", "content": "count"}], "max_tokens": 8} | fields
        if stream:
            body["stream"] = True
        return await self.post("/v1/chat/completions", body, headers)

    async def post(self, path: str, body: object, headers: dict[str, str] | None = None) -> Answer:
        """Posts JSON and reads the whole answer."""
        async with self.session.post(self.url + path, json=body, headers=headers) as response:
            return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, await response.read())

    async def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        """Gets a path."""
        async with self.session.get(self.url + path, headers=headers) as response:
            return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, await response.read())


@dataclass
class Answer:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict:  # type: ignore[type-arg]
        import orjson

        return orjson.loads(self.body)

    @property
    def text(self) -> str:
        """The text of a whole chat completion."""
        return self.json["choices"][0]["message"]["content"]

    @property
    def frames(self) -> list[str]:
        """The data of a stream's events."""
        return [frame[6:] for frame in self.body.decode().split("\n\n") if frame.startswith("data: ")]

    @property
    def streamed(self) -> str:
        """The text of a chat stream."""
        import orjson

        documents = [orjson.loads(frame) for frame in self.frames if frame != "[DONE]"]
        return "".join(
            choice["delta"].get("content") or "" for document in documents for choice in document.get("choices", ())
        )

    @property
    def error(self) -> dict:  # type: ignore[type-arg]
        """The error of a refusal, or the one that ended a stream."""
        import orjson

        if self.headers.get("content-type", "").startswith("text/event-stream"):
            return orjson.loads(self.frames[-1])["error"]
        return self.json["error"]


@asynccontextmanager
async def running_gateway(
    text: str, path: Path | None = None, *, host: str = "127.0.0.1"
) -> AsyncIterator[RunningGateway]:
    """Serves a configuration on a free port of `host` until the block ends; then stops at once."""
    config = load_text(text)
    sock = bind(host, 0)
    port = sock.getsockname()[1]
    gateway = Gateway(config, path)
    await gateway.start(sock)
    async with aiohttp.ClientSession() as session:
        try:
            yield RunningGateway(gateway, f"http://127.0.0.1:{port}", session)
        finally:
            await gateway.stop(timeout=0)
