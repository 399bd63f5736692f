"""A client that sends any bytes, and reads answers by the letter of RFC 9112: what does not fit is an error."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """One answer: header names in lower case, in order; the body without its framing."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header; fails if it is there twice."""
        values = [value for other, value in self.headers if other == name]
        assert len(values) <= 1, f"{name} is repeated: {values}"
        return values[0] if values else None

    @property
    def error(self) -> dict[str, Any]:
        """The error of the contract in it; fails if it is none."""
        document = json.loads(self.body)
        error: dict[str, Any] = document["error"] if isinstance(document["error"], dict) else document
        assert {"error_type", "is_retryable", "details", "correlation_id", "timestamp"} <= error.keys()
        return error


async def talk(
    port: int, *pieces: bytes, timeout: float = 10.0, host: str = "127.0.0.1", head: bool = False
) -> list[RawAnswer]:
    """Sends the pieces and reads until the server closes. Raises TimeoutError if it does not.

    `head`: the first request is a HEAD, whose answer has no body.
    """
    reader, writer = await asyncio.open_connection(host, port)
    received = b""
    try:
        async with asyncio.timeout(timeout):
            try:
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                while data := await reader.read(1 << 16):
                    received += data
            except ConnectionError:
                pass  # closed with unread bytes of ours: what came before it counts
    finally:
        writer.close()
    return answers(received, head=head)


def answers(received: bytes, *, head: bool = False) -> list[RawAnswer]:
    """All answers in what a server sent. Raises ValueError if any byte is not part of one."""
    found = []
    while received:
        answer, received = _answer(received, bodiless=head and not found)
        if answer.status >= 200:
            found.append(answer)
    return found


def _answer(data: bytes, *, bodiless: bool) -> tuple[RawAnswer, bytes]:
    head, separator, rest = data.partition(b"\r\n\r\n")
    if not separator:
        raise ValueError(f"no end of a head: {data[:200]!r}")
    start, *lines = head.decode("latin-1").split("\r\n")
    version, status, _ = start.split(" ", 2)
    if version != "HTTP/1.1" or any(bad in line for line in lines for bad in "\r\n\0"):
        raise ValueError(f"not a head: {head!r}")
    headers = tuple((name.lower(), value.strip()) for name, value in (line.split(":", 1) for line in lines))
    names = [name for name, _ in headers]
    if names.count("content-length") + names.count("transfer-encoding") > 1:
        raise ValueError(f"two framings: {head!r}")
    code = int(status)
    if code < 200 or bodiless:
        return RawAnswer(code, headers, b""), rest
    values = dict(headers)
    if "transfer-encoding" in values:
        body, rest = _chunks(rest)
    elif "content-length" in values:
        length = int(values["content-length"])
        if len(rest) < length:
            raise ValueError("cut short")
        body, rest = rest[:length], rest[length:]
    else:
        body, rest = rest, b""
    return RawAnswer(code, headers, body), rest


def _chunks(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, separator, data = data.partition(b"\r\n")
        if not separator:
            raise ValueError("cut short")
        length = int(size, 16)
        body += data[:length]
        if data[length : length + 2] != b"\r\n":
            raise ValueError("a chunk without its end")
        data = data[length + 2 :]
        if length == 0:
            return body, data
