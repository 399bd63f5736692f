"""Clients that know the right answer: each asks for a count from a number of its own and checks every byte."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.support.counting_model import count_text

TOKENS = 40
#: Seconds after which a client gives up.
PATIENCE = 15.0
_LEAVES_AFTER = 5


@dataclass(slots=True)
class Outcome:
    """How one request ended. `verdict`: exact; reduced (shorter after a lack of memory, and said so in
    `X-Seawall-Warning`); refused (a 400); failed (said so); silent (cut, or wrong, and passed off as whole); left.
    Times in loop time; `stall`: longest silence within a stream's content, in seconds. `request_id` is what the
    gateway calls it, empty where it doesn't say."""

    stream: bool
    began: float
    verdict: str = "failed"
    ended: float = 0.0
    stall: float = 0.0
    tokens: int = 0
    why: str = ""
    request_id: str = ""


@dataclass(slots=True)
class Load:
    """`rate` requests a second, every other one a stream, on one session of keep-alive connections. `late`: how long
    after its time one was sent at worst, in seconds."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    rate: float = 40.0
    leavers: bool = False
    late: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1000, 1000))

    async def run(self, seconds: float) -> None:
        """Asks for so long, then waits for the last answers."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        limits = aiohttp.ClientTimeout(total=PATIENCE)
        async with aiohttp.ClientSession(timeout=limits, connector=aiohttp.TCPConnector(limit=0)) as session:
            tasks = []
            for number in range(int(seconds * self.rate)):
                due = began + number / self.rate
                await asyncio.sleep(max(0.0, due - loop.time()))
                self.late = max(self.late, loop.time() - due)
                tasks.append(asyncio.create_task(self._one(session, number)))
            await asyncio.gather(*tasks)

    async def _one(self, session: aiohttp.ClientSession, number: int) -> None:
        loop = asyncio.get_running_loop()
        outcome = Outcome(number % 2 == 1, loop.time())
        self.outcomes.append(outcome)
        first = next(self._numbers)
        body: dict[str, Any] = {
            "model": "tiny",
            "messages": [{"role": "user", "content": f"count from {first}"}],
            "max_tokens": TOKENS,
            "temperature": 0,
        }
        try:
            if outcome.stream:
                leaves = self.leavers and number % 4 == 1
                await self._stream(session, body | {"stream": True}, first, outcome, leaves=leaves)
            else:
                await self._unary(session, body, first, outcome)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            outcome.why = type(error).__name__
        outcome.ended = loop.time()

    async def _unary(self, session: aiohttp.ClientSession, body: Any, first: int, outcome: Outcome) -> None:
        async with session.post(self.url, json=body, headers=self.headers) as answer:
            outcome.request_id = answer.headers.get("X-Request-ID", "")
            data = await answer.read()
        if answer.status != 200:
            outcome.verdict = "refused" if answer.status == 400 else "failed"
            outcome.why = f"status {answer.status}"
            return
        try:
            text = json.loads(data)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            text = None
        outcome.verdict = _verdict(text, first, answer)
        outcome.why = f"not the count from {first}: {data[:300]!r}" if outcome.verdict == "silent" else ""
        outcome.tokens = TOKENS if outcome.verdict == "exact" else 0

    async def _stream(
        self, session: aiohttp.ClientSession, body: Any, first: int, outcome: Outcome, *, leaves: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        text, done, last = "", False, loop.time()
        async with session.post(self.url, json=body, headers=self.headers) as answer:
            outcome.request_id = answer.headers.get("X-Request-ID", "")
            if answer.status != 200:
                outcome.verdict = "refused" if answer.status == 400 else "failed"
                outcome.why = f"status {answer.status}"
                return
            async for line in answer.content:
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    done = True
                    continue
                document = json.loads(data)
                if document.get("error"):
                    outcome.why = "error in the stream"
                    return
                for choice in document.get("choices", ()):
                    if content := choice.get("delta", {}).get("content"):
                        text += content
                        outcome.tokens += 1
                        outcome.stall = max(outcome.stall, loop.time() - last) if outcome.tokens > 1 else 0.0
                        last = loop.time()
                if leaves and outcome.tokens >= _LEAVES_AFTER:
                    outcome.verdict = "left"
                    answer.close()
                    return
        outcome.verdict = _verdict(text, first, answer) if done else "silent"
        if outcome.verdict == "silent":
            outcome.why = "cut" if _right(first).startswith(text) else f"wrong text: {text[:300]!r}"


async def read_slowly(host: str, port: int, seconds: float) -> int:
    """One client that reads 64 bytes twice a second of a long stream, with a receive buffer that is soon full.

    Returns the bytes read. Raises RuntimeError when it is not answered with a stream that lasts.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=256)
    body = json.dumps(
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": "go on and on"}],  # not counted with the others
            "max_tokens": 8000,
            "stream": True,
        }
    ).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    read = b""
    try:
        for _ in range(int(seconds * 2)):
            async with asyncio.timeout(PATIENCE):
                piece = await reader.read(64)
            read += piece
            if not piece or not read.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"a slow reader was given no stream that lasts: {read[-200:]!r}")
            await asyncio.sleep(0.5)
    finally:
        writer.transport.abort()
    return len(read)


def _verdict(text: str | None, first: int, answer: aiohttp.ClientResponse) -> str:
    right = _right(first)
    if text and text != right and right.startswith(text) and "X-Seawall-Warning" in answer.headers:
        return "reduced"
    return "exact" if text == right else "silent"


def _right(first: int) -> str:
    return count_text(first, first + TOKENS - 1)
