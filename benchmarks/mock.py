"""A model server that costs next to nothing, so that what is measured is the gateway.

`max_tokens` is the number of frames of a stream, `seed` the milliseconds between them (0: all at once): two fields that
every gateway passes on.
"""

from __future__ import annotations

import asyncio
import re
import sys

import httptools
import uvloop

_FRAMES = re.compile(rb'"max_tokens":\s*(\d+)')
_INTERVAL = re.compile(rb'"seed":\s*(\d+)')
_STREAM = re.compile(rb'"stream":\s*true')

_HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Wed, 01 Jul 2026 10:00:00 GMT\r\nserver: uvicorn\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
)
_TEXT = "The tide rises and falls twice a day, drawn by the moon and, more weakly, by the sun. " * 3
_ANSWER = (
    '{"id":"chatcmpl-9f86d081884c7d65","object":"chat.completion","created":1795477771,"model":"bench","choices":'
    '[{"index":0,"message":{"role":"assistant","content":"' + _TEXT + '"},"logprobs":null,"finish_reason":"stop"}],'
    '"usage":{"prompt_tokens":42,"total_tokens":106,"completion_tokens":64}}'
).encode()
UNARY = _HEAD % len(_ANSWER) + _ANSWER

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Wed, 01 Jul 2026 10:00:00 GMT\r\nserver: uvicorn\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
_CHUNK = (
    b'data: {"id":"chatcmpl-9f86d081884c7d65","object":"chat.completion.chunk","created":1795477771,"model":"bench",'
    b'"choices":[{"index":0,"delta":{%b},"logprobs":null,"finish_reason":%b}]}\n\n'
)


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


FIRST = _chunked(_CHUNK % (b'"role":"assistant","content":""', b"null"))
FRAME = _chunked(_CHUNK % (b'"content":" tide"', b"null"))
#: As it is where `return_token_ids` is asked for.
FRAME_WITH_IDS = _chunked((_CHUNK % (b'"content":" tide"', b"null")).replace(b"}]}", b',"token_ids":[4711]}]}'))
LAST = _chunked(_CHUNK % (b'"content":""', b'"stop"')) + _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"
_METRICS = b"vllm:num_requests_running 0\nvllm:num_requests_waiting 0\nvllm:kv_cache_usage_perc 0\n"
_MODELS = b'{"object":"list","data":[{"id":"bench","object":"model","owned_by":"bench","max_model_len":32768}]}'


class MockModel(asyncio.Protocol):
    """One connection; requests one after the other."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._loop = asyncio.get_running_loop()
        self._url = b""
        self._body: list[bytes] = []
        self._transport: asyncio.Transport
        self._left = 0
        self._interval = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body, self._body = b"".join(self._body), []
        if self._url.endswith(b"/health"):
            self._transport.write(_HEAD % 0)
        elif self._url.endswith(b"/metrics"):
            self._transport.write(_HEAD % len(_METRICS) + _METRICS)
        elif not body:
            self._transport.write(_HEAD % len(_MODELS) + _MODELS)
        elif _STREAM.search(body, 0, 4096) or _STREAM.search(body, max(0, len(body) - 512)):
            self._stream(body)
        else:
            self._transport.write(UNARY)

    def _stream(self, body: bytes) -> None:
        frames, interval = _FRAMES.search(body), _INTERVAL.search(body)
        self._left = int(frames[1]) if frames else 16
        self._interval = int(interval[1]) / 1000 if interval else 0.0
        self._transport.write(STREAM_HEAD + FIRST + FRAME)
        if not self._interval:
            for _ in range(self._left - 1):
                self._transport.write(FRAME)
            self._transport.write(LAST)
            return
        self._left -= 1
        self._due = self._loop.time() + self._interval
        self._timer = self._loop.call_at(self._due, self._next)

    def _next(self) -> None:
        if self._left <= 0:
            self._timer = None
            self._transport.write(LAST)
            return
        self._left -= 1
        self._transport.write(FRAME)
        self._due += self._interval
        self._timer = self._loop.call_at(self._due, self._next)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()


async def _main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(MockModel, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1])))
