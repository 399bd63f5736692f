"""The request's way without sockets: what parsing, policies, bookkeeping and logging cost, and where.

Real connections' objects over transports that only pass bytes on within the process. A figure that a busy machine
disturbs little (the least of many short batches), for judging one change at a time: `python -m benchmarks.path`;
with `--profile` by function, with `--stream` per frame of a stream, with `--resume` of one that could go on at a second
endpoint, so that its frames are kept and their token ids taken out; with `--backends` of one tier, each with one more
connection and `--busy` requests under way. With `--instructions`, figures that a busy machine
does not disturb at all: the processor's instructions (as valgrind counts them, in two minutes) and the calls of
functions, for each request or frame.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import pstats
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any, TextIO

import uvloop

from benchmarks import mock
from benchmarks.load import request
from gateway.app import Gateway
from gateway.config import load_config
from gateway.http.connection import ClientConnection
from gateway.upstream.connection import UpstreamConnection

_CONFIG = """\
server: {listen: 127.0.0.1:0}
backends: {%s}
routes: [{model: bench, backends: [%s]}]
"""
_BACKEND = '%s: {url: "http://127.0.0.1:1", kind: vllm}'
_BATCH = 500
_FRAMES = 200
#: Runs whose difference is what the batches take that one has more.
_SHORT, _LONG = 1, 9


class _Transport(asyncio.Transport):
    """Gives what is written to `written`, on the loop's next turn as a socket would."""

    def __init__(self, loop: asyncio.AbstractEventLoop, written: Any) -> None:
        super().__init__()
        self._loop = loop
        self._written = written

    def write(self, data: Any) -> None:
        self._loop.call_soon(self._written, data)

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    abort = pause_reading = resume_reading = close


class Way:
    """One client connection asking again and again, `_BATCH` times."""

    def __init__(self, gateway: Gateway, asked: bytes, stream: bool, frame: bytes = mock.FRAME) -> None:
        self._loop = gateway.loop
        self._asked = asked
        self._left = 0
        self._stream = stream
        self._frame = frame
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._client = ClientConnection(gateway.server)
        self._client.connection_made(_Transport(self._loop, self._answered))
        for endpoint in gateway.runtime.endpoints.values():
            upstream = UpstreamConnection(endpoint.pool)
            upstream.connection_made(_Transport(self._loop, partial(self._backend, upstream)))
            endpoint.pool.give_back(upstream)

    async def batch(self) -> float:
        """CPU seconds of a batch."""
        self._done = self._loop.create_future()
        self._left = _BATCH if not self._stream else 1
        began = process_time()
        self._client.data_received(self._asked)
        await self._done
        return process_time() - began

    def _backend(self, upstream: UpstreamConnection, data: bytes) -> None:
        if not self._stream:
            upstream.data_received(mock.UNARY)
            return
        receive, soon = upstream.data_received, self._loop.call_soon
        receive(mock.STREAM_HEAD + mock.FIRST)
        for _ in range(_FRAMES):
            soon(receive, self._frame)
        soon(receive, mock.LAST)

    def _answered(self, data: bytes) -> None:
        if self._stream and not bytes(data).endswith(b"0\r\n\r\n"):
            return
        self._left -= 1
        if self._left:
            self._client.data_received(self._asked)
        elif not self._done.done():
            self._done.set_result(None)


async def _main(options: argparse.Namespace, told: TextIO) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        names = [f"mock-{number}" for number in range(2 if options.resume else options.backends)]
        file.write(_CONFIG % (", ".join(_BACKEND % name for name in names), ", ".join(names)))
        file.flush()
        gateway = Gateway(load_config(Path(file.name)))
    if options.resume:
        gateway.runtime.endpoints["mock-1"].in_service = False
    frame = mock.FRAME_WITH_IDS if options.resume else mock.FRAME
    path = Way(gateway, request(frames=_FRAMES if options.stream else 0, headers=options.header), options.stream, frame)
    for endpoint in gateway.runtime.endpoints.values():
        endpoint.in_flight += options.busy
    await path.batch()
    profile = cProfile.Profile() if options.profile else None
    if profile is not None:
        profile.enable()
    costs = sorted([await path.batch() for _ in range(options.batches)])
    if profile is not None:
        profile.disable()
        pstats.Stats(profile, stream=told).sort_stats("tottime").print_stats(45)
    each = _FRAMES if options.stream else _BATCH
    least, middle = (costs[at] / each * 1e6 for at in (0, len(costs) // 2))
    print(f"{least:.2f} µs (median {middle:.2f})", file=told)


def _counted(counter: list[str], arguments: list[str], pattern: str, each: int) -> float:
    """What `counter`, which tells it in this pattern, counts for one request or frame: the difference of two runs."""
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    path = [sys.executable, "-m", "benchmarks.path", *arguments, "--batches"]
    runs = [
        subprocess.Popen(
            [*counter, *path, str(batches)],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for batches in (_SHORT, _LONG)
    ]
    fewer, more = (int(re.findall(pattern, run.communicate()[0])[0].replace(",", "")) for run in runs)
    return (more - fewer) / (_LONG - _SHORT) / each


def _tell_instructions(arguments: list[str], each: int) -> None:
    valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    calls = _counted([], [*arguments, "--profile"], r"(\d+) function calls", each)
    instructions = _counted(valgrind, arguments, r"I +refs: +([\d,]+)", each)
    print(f"{instructions:,.0f} instructions, {calls:.1f} calls")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--backends", type=int, default=1)
    parser.add_argument("--busy", type=int, default=0, help="requests that each backend has under way all the time")
    parser.add_argument("--header", action="append", default=[])
    options = parser.parse_args()
    each = _FRAMES if options.stream else _BATCH
    if options.instructions:
        _tell_instructions([argument for argument in sys.argv[1:] if argument != "--instructions"], each)
        return
    told = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where the gateway logs
    uvloop.run(_main(options, told))


if __name__ == "__main__":
    main()
