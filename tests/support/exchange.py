"""One answer of the fault backend, written piece by piece, with faults striking at their positions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import NoReturn

from tests.support.faults import ENGINE_DEAD, Fault, FaultKind, error_body
from tests.support.request_log import RequestLog, SeenRequest
from tests.support.vllm_answers import Reply
from tests.support.vllm_frames import Frame, StreamReply
from tests.support.wire import Connection

Pause = Callable[[float | None], Awaitable[None]]

_ENDLESS_LIMIT = 64 << 20
_INFORMATIONAL = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n"


_DEATH = Reply(error_body(ENGINE_DEAD, "InternalServerError", 500), 500)


class CutError(Exception):
    """A fault has ended the answer and its connection."""


class StreamEndedError(Exception):
    """A fault has ended the stream; the connection lives on."""


class Exchange:
    """Writes one answer to `connection`; `pause(seconds or None)` waits, at most until the backend is healed.

    `first_token` and `per_token` are the model's pace in seconds.
    """

    def __init__(
        self,
        connection: Connection,
        log: RequestLog,
        seen: SeenRequest,
        faults: list[Fault],
        pause: Pause,
        *,
        first_token: float = 0.0,
        per_token: float = 0.0,
    ) -> None:
        self.keep_alive = seen.headers.get("connection", "").lower() != "close"
        self._connection = connection
        self._log = log
        self._seen = seen
        self._faults = faults
        self._waiting = list(faults)
        self._pause = pause
        self._first_token = first_token
        self._per_token = per_token
        self._streaming = False
        self._last_words: bytes | None = None  # of the stream, should its engine die
        self._http10 = self._has(FaultKind.HTTP10) is not None
        if self._http10 or self._has(FaultKind.CONNECTION_CLOSE):
            self.keep_alive = False

    def _has(self, kind: FaultKind) -> Fault | None:
        return next((fault for fault in self._faults if fault.kind is kind), None)

    @property
    def tokens_per_frame(self) -> int:
        """How many tokens the model is to put in a frame."""
        fault = self._has(FaultKind.TOKENS_PER_FRAME)
        return fault.size if fault else 1

    async def begin(self) -> None:
        """Strikes what strikes before there is an answer. Raises CutError."""
        await self._strike("request")

    async def answer(self, reply: Reply | StreamReply) -> None:
        """Writes the answer, as the faults have it. Raises CutError."""
        death = self._has(FaultKind.ENGINE_DEATH)
        if self._has(FaultKind.INFORMATIONAL):
            await self._send(_INFORMATIONAL)
        if raw := self._has(FaultKind.RAW):
            await self._send(raw.body)
            await self._cut()
        elif self._has(FaultKind.ENDLESS_HEADERS):
            await self._endless_headers()
        elif canned := self._has(FaultKind.RESPOND):
            await self._canned(canned)
        elif death and (isinstance(reply, Reply) or death.after == "request"):
            await self._unary(_DEATH)
        elif isinstance(reply, StreamReply):
            await self._stream(reply)
        else:
            await self._unary(reply)

    async def _canned(self, fault: Fault) -> None:
        headers = {"content-type": "application/json", "content-length": str(len(fault.body))} | dict(fault.headers)
        await self._head(fault.status, headers)
        await self._send(fault.body)
        if headers["content-length"] != str(len(fault.body)):
            await self._cut()

    async def _unary(self, reply: Reply) -> None:
        await self._slow_first_token()
        if reply.tokens:
            await _pace(self._first_token + self._per_token * reply.tokens)
        half, shortened = len(reply.body) // 2, self._has(FaultKind.HALF_BODY)
        length = half if shortened and not shortened.claim_length else len(reply.body)
        headers = {"content-length": str(length), "content-type": reply.content_type} | dict(reply.headers)
        if not self._waiting and not shortened:
            await self._send(self._head_bytes(reply.status, headers) + reply.body)
        else:
            await self._head(reply.status, headers)
            await self._strike("head")
            await self._send(reply.body[:half])
            await self._strike("half")
            if shortened and shortened.claim_length:
                await self._cut()
            elif not shortened:
                await self._send(reply.body[half:])
        self._log.progress(self._seen, reply.tokens)

    async def _stream(self, reply: StreamReply) -> None:
        headers = {"content-type": "text/event-stream; charset=utf-8"}
        if not self._http10:
            headers["transfer-encoding"] = "chunked"
        await self._head(200, headers)
        self._streaming, self._last_words = True, reply.death
        try:
            await self._strike("head")
            await self._slow_first_token()
            await _pace(self._first_token)
            for frame in reply.frames:
                await self._frame(frame)
        except StreamEndedError:
            self._end()
        if not self._http10:
            await self._send(b"0\r\n\r\n")

    async def _frame(self, frame: Frame) -> None:
        if frame.tokens or self._seen.tokens_sent:
            await self._strike(self._seen.tokens_sent)
        if frame.tokens:
            await _pace(self._per_token * frame.tokens)
        await self._chunk(frame.data)
        self._log.progress(self._seen, frame.tokens)
        if frame.finish:
            await self._strike("finish")

    async def _strike(self, position: str | int) -> None:
        for fault in [fault for fault in self._waiting if _due(fault, position)]:
            self._waiting.remove(fault)
            await self._apply(fault)

    async def _apply(self, fault: Fault) -> None:
        match fault.kind:
            case FaultKind.CLOSE:
                await self._cut()
            case FaultKind.RST:
                self._end()
                self._connection.reset()
                raise CutError
            case FaultKind.HANG:
                await self._pause(fault.seconds)
            case FaultKind.END if self._streaming:
                raise StreamEndedError
            case FaultKind.ENGINE_DEATH if self._streaming:
                if self._last_words is None:
                    await self._cut()
                for frame in self._last_words.split(b"\n\n")[:-1]:
                    await self._chunk(frame + b"\n\n")
                raise StreamEndedError
            case FaultKind.FRAME if self._streaming:
                pad = b"x" * fault.pad + b"\n\n" if fault.pad else b""
                await self._chunk(fault.body + pad)
            case FaultKind.BAD_CHUNK if self._streaming:
                await self._send(b"XYZ\r\ndata: {}\n\n\r\n")
                await self._cut()

    async def _slow_first_token(self) -> None:
        if slow := self._has(FaultKind.SLOW):
            await self._pause(slow.seconds)

    async def _endless_headers(self) -> None:
        await self._send(b"HTTP/1.1 200 OK\r\n")
        line = b"x-endless: " + b"a" * 1000 + b"\r\n"
        for _ in range(_ENDLESS_LIMIT // len(line)):
            await self._send(line)
            await asyncio.sleep(0)
        await self._cut()

    async def _head(self, status: int, headers: Mapping[str, str]) -> None:
        await self._send(self._head_bytes(status, headers))

    def _head_bytes(self, status: int, headers: Mapping[str, str]) -> bytes:
        self._seen.status = status
        lines = {"date": formatdate(usegmt=True), "server": "uvicorn"} | dict(headers)
        if self._http10:
            lines.pop("content-length", None)
        elif not self.keep_alive:
            lines["connection"] = "close"
        if large := self._has(FaultKind.LARGE_HEADER):
            lines["x-large"] = "a" * large.pad
        phrase = HTTPStatus(status).phrase if status in _KNOWN_STATUSES else ""
        start = f"HTTP/{'1.0' if self._http10 else '1.1'} {status} {phrase}\r\n"
        return (start + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n").encode("latin-1")

    async def _chunk(self, data: bytes) -> None:
        split = self._has(FaultKind.SPLIT)
        size = split.size if split else len(data)
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            await self._send(piece if self._http10 else b"%x\r\n%b\r\n" % (len(piece), piece))

    async def _send(self, data: bytes) -> None:
        split = self._has(FaultKind.SPLIT)
        if not split:
            await self._connection.write(data)
            return
        for start in range(0, len(data), split.size):
            await self._connection.write(data[start : start + split.size])
            await asyncio.sleep(0)  # a segment of its own

    async def _cut(self) -> NoReturn:
        self._end()
        self._connection.close()
        raise CutError

    def _end(self) -> None:
        self._log.end(self._seen, "cut", asyncio.get_running_loop().time())


_KNOWN_STATUSES = {status.value for status in HTTPStatus}


async def _pace(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)


def _due(fault: Fault, position: str | int) -> bool:
    if isinstance(fault.after, int) and isinstance(position, int):
        return position >= fault.after
    return fault.after == position
