"""A worker and the gateway before it, as processes."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from tests.support.processes import Process, free_port

_LOADING = 1800.0
_BEGAN = time.perf_counter()
_CONFIG = """
server: {{listen: '127.0.0.1:{port}'}}
backends: {{worker: {{url: '{url}', kind: {kind}}}}}
routes: [{{model: '*', backends: [worker], policy: bench}}]
policies:
  bench:
    timeout: {{first_token: 10m, idle: 10m, total: 20m}}
    retry: {{attempts: 1}}
    oom: {{attempts: 0}}
    limits: {{max_input_chars: 1000000, max_tokens: 100000, max_pixels: 16777216, max_steps: 1000}}
"""


@dataclass(frozen=True, slots=True)
class Stack:
    """Where the worker (`direct`) and the gateway (`gateway`) listen, the model's name, the worker's process."""

    direct: str
    gateway: str
    model: str
    process: Process
    session: aiohttp.ClientSession

    async def metric(self, name: str) -> float:
        """The sum of one of the worker's metrics over its labels."""
        async with self.session.get(f"{self.direct}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


@asynccontextmanager
async def running(module: str, kind: str, *options: str, env: dict[str, str]) -> AsyncIterator[Stack]:
    """`python -m backends.workers.MODULE`, loaded, and the gateway. Raises ProcessFailedError if one does not start."""
    port, entrance = free_port(), free_port()
    url, gateway = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{entrance}"
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory()))
        command = ["-m", f"backends.workers.{module}", *options, "--port", str(port)]
        worker = stack.enter_context(Process.python(*command, env=env))
        worker.wait_ready(f"{url}/health", _LOADING)
        (work / "gateway.yaml").write_text(_CONFIG.format(port=entrance, url=url, kind=kind))
        command = ["-m", "gateway", "serve", "--config", str(work / "gateway.yaml")]
        serving = stack.enter_context(Process.python(*command, env=env))
        serving.wait_ready(f"{gateway}/readyz", 60.0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with session.get(f"{url}/v1/models") as answer:
                model = (await answer.json())["data"][0]["id"]
            yield Stack(url, gateway, model, worker, session)


def tell(what: Any) -> None:
    """A line of progress, with the seconds since the start."""
    print(f"{time.perf_counter() - _BEGAN:6.1f} s  {what}", file=sys.stderr, flush=True)


def text_options(model: str, device: str, options: Sequence[str] = ()) -> list[str]:
    """The text worker's command line, as fast as it goes."""
    return ["text", "--model", model, "--device", device, "--tokens-per-second", "0", "--timeout", "1200", *options]


def image_options(pipeline: str, device: str, options: Sequence[str] = ()) -> list[str]:
    """The image worker's command line."""
    return ["--pipeline", pipeline, "--device", device, "--timeout", "1200", *options]
