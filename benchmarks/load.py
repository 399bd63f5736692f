"""The load: one process on uvloop that asks, reads just enough of the answers, and prints one JSON object.

While the window is open it counts answers and frames; at its two ends it reads the CPU time of the subject's process
tree, so that the two belong together.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
from collections import deque
from collections.abc import Sequence
from time import perf_counter

import uvloop

from benchmarks import proctree

_DATA = b"data: {"
_STREAM_END = b"0\r\n\r\n"
_AT_ONCE = 128  # connections opened together where they need not be spread


class Client(asyncio.Protocol):
    """One connection of the load; asks again when its answer is complete, unless the load is open-loop."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.transport: asyncio.Transport
        self.asked = self.last = 0.0
        self.buffer = b""
        self.missing = -1  # bytes of the body that have not come; -1: the head is not complete
        self.first = False
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def ask(self, asked: float) -> None:
        self.asked = asked
        self.busy = True
        self.buffer = b""
        self.missing = -1
        self.first = True
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        if self.load.stream:
            self._stream(data)
        else:
            self._unary(data)

    def _unary(self, data: bytes) -> None:
        if self.missing >= 0:
            self.missing -= len(data)
        else:
            self.buffer = data = self.buffer + data if self.buffer else data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                return
            at = data.find(b"ontent-", 0, end)
            while at > 0 and data[at + 7 : at + 15].lower() != b"length: ":
                at = data.find(b"ontent-", at + 1, end)
            if at < 0:  # chunked
                if not data.endswith(_STREAM_END):
                    return
                self.missing = 0
            else:
                length = int(data[at + 15 : data.index(b"\r", at)])
                self.missing = end + 4 + length - len(data)
        if self.missing == 0:
            self._done(self.buffer.startswith(b"HTTP/1.1 200"))

    def _stream(self, data: bytes) -> None:
        now = perf_counter()
        load = self.load
        if self.first and not self.buffer and not data.startswith(b"HTTP/1.1 200"):
            self.transport.abort()
            return
        frames = data.count(_DATA)
        if frames:
            if self.first:
                self.first = False
                if load.open:
                    load.first.append(now - self.asked)
            elif load.open:
                gap = now - self.last
                load.gaps.append(gap)
            self.last = now
            load.frames += frames
        if data.endswith(_STREAM_END):
            self._done(not self.first)
        elif self.first and len(self.buffer) < 65536:
            self.buffer += data

    def _done(self, good: bool) -> None:
        load = self.load
        self.busy = False
        load.answers += good
        load.failed += not good
        if load.open and not load.stream:
            load.latencies.append(perf_counter() - self.asked)
        load.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        load = self.load
        if not load.closing:
            load.failed += self.busy
            self.busy = False
            load.lost += 1
            asyncio.get_running_loop().call_later(0.05, load.reconnect)


class Load:
    """A closed loop over `connections`, or an open one at `rate` requests a second."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.stream = options.frames > 0
        self.request = request(
            host=f"{options.host}:{options.port}",
            path=options.path,
            model=options.model,
            headers=options.header,
            body=options.body,
            frames=options.frames,
            interval=options.interval,
        )
        self.open = self.closing = False
        self.answers = self.failed = self.frames = self.lost = 0
        self.latencies: list[float] = []
        self.first: list[float] = []
        self.gaps: list[float] = []
        self._idle: deque[Client] = deque()
        self._waiting: deque[float] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def free(self, client: Client) -> None:
        if self.closing:
            return
        if not self.options.rate:
            client.ask(perf_counter())
        elif self._waiting:
            client.ask(self._waiting.popleft())
        else:
            self._idle.append(client)

    def reconnect(self) -> None:
        if not self.closing:
            task = asyncio.get_running_loop().create_task(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        try:
            _, client = await asyncio.get_running_loop().create_connection(
                lambda: Client(self), self.options.host, self.options.port
            )
        except OSError:
            self.failed += 1
            asyncio.get_running_loop().call_later(0.2, self.reconnect)
            return
        self.free(client)

    async def _pace(self) -> None:
        """Starts requests at the rate; one that finds no free connection waits, and its wait counts."""
        began, sent = perf_counter(), 0
        while not self.closing:
            due = int((perf_counter() - began) * self.options.rate)
            now = perf_counter()
            for _ in range(due - sent):
                if self._idle:
                    self._idle.popleft().ask(now)
                elif len(self._waiting) < 10000:
                    self._waiting.append(now)
            sent = due
            await asyncio.sleep(0.001)

    async def run(self) -> dict[str, object]:
        options = self.options
        spread = options.ramp / max(1, options.connections)
        at_once = 1 if spread > 0.0005 else _AT_ONCE  # behind those that ask already, each connection waits its turn
        for opened in range(0, options.connections, at_once):
            await asyncio.gather(*(self._connect() for _ in range(min(at_once, options.connections - opened))))
            if at_once == 1:
                await asyncio.sleep(spread)
        pacer = asyncio.create_task(self._pace()) if options.rate else None
        await asyncio.sleep(options.warmup)
        pids = proctree.tree(options.tree) if options.tree else []
        self.answers = self.failed = self.frames = self.lost = 0
        self.open = True
        began, cpu = perf_counter(), proctree.cpu_seconds(pids)
        await asyncio.sleep(options.seconds)
        self.open = False
        seconds, cpu = perf_counter() - began, proctree.cpu_seconds(pids) - cpu
        answers, frames, failed = self.answers, self.frames, self.failed
        rss = proctree.rss_bytes(pids)
        self.closing = True
        if pacer is not None:
            pacer.cancel()
        return {
            "seconds": seconds,
            "cpu_seconds": cpu,
            "answers": answers,
            "frames": frames,
            "failed": failed,
            "rss": rss,
            "latency_ms": percentiles(self.latencies),
            "first_ms": percentiles(self.first),
            "gap_ms": percentiles(self.gaps),
        }


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p99, p99.9 and the largest, from seconds to milliseconds; empty when nothing was seen."""
    if not values:
        return {}
    ordered = sorted(values)
    last = len(ordered) - 1
    picks = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {name: round(ordered[min(last, int(share * len(ordered)))] * 1000, 4) for name, share in picks.items()}


def request(
    *,
    host: str = "127.0.0.1:8080",
    path: str = "/v1/chat/completions",
    model: str = "bench",
    headers: Sequence[str] = (),
    body: int = 60,
    frames: int = 0,
    interval: int = 0,
) -> bytes:
    """A chat request as a client sends it; `body` characters more in its message, `headers` as whole lines."""
    text = "How does the tide come about?" + " x" * (body // 2)
    fields: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": text}]}
    if frames:
        fields |= {"stream": True, "max_tokens": frames, "seed": interval}
    else:
        fields |= {"max_tokens": 64, "temperature": 0.7}
    data = json.dumps(fields, separators=(",", ":")).encode()
    lines = "".join(f"{header}\r\n" for header in headers)
    return (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench/1\r\nAccept: */*\r\n"
        f"Content-Type: application/json\r\n{lines}Content-Length: {len(data)}\r\n\r\n"
    ).encode() + data


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/v1/chat/completions")
    parser.add_argument("--model", default="bench")
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--warmup", type=float, default=0.5)
    parser.add_argument("--ramp", type=float, default=0.0, help="seconds over which connections are opened")
    parser.add_argument("--frames", type=int, default=0)
    parser.add_argument("--interval", type=int, default=0)
    parser.add_argument("--body", type=int, default=60, help="characters more in the message")
    parser.add_argument("--tree", type=int, default=0, help="process whose tree's CPU time is read")
    load = Load(parser.parse_args())
    gc.disable()
    print(json.dumps(uvloop.run(load.run())), flush=True)


if __name__ == "__main__":
    main()
