"""Three counting backends as processes of their own, to be broken."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from benchmarks.chaos.scenarios import Act
from tests.support.processes import free_port

ROOT = Path(__file__).resolve().parents[2]
FIRST_TOKEN, PER_TOKEN = 0.02, 0.01


class Backend:
    """One process. Its port stays the same over restarts; `seen` keeps what each life of it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port, self.control = free_port(), free_port()
        self.seen: list[dict[str, Any]] = []
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Starts it and waits until it listens."""
        argv = [sys.executable, "-m", "tests.support.fault_backend", "--port", str(self.port)]
        argv += ["--control-port", str(self.control), "--length", "100000", "--max-model-len", "100000"]
        argv += ["--first-token", str(FIRST_TOKEN), "--per-token", str(PER_TOKEN)]
        environ = os.environ | {"PYTHONPATH": str(ROOT)}
        self._process = await asyncio.create_subprocess_exec(
            *argv, stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=environ
        )
        assert self._process.stdout is not None
        await asyncio.wait_for(self._process.stdout.readline(), 30)

    async def kill(self) -> None:
        """kill -9; what it was asked is asked for first, as it dies with it."""
        await self._collect()
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def stop(self) -> None:
        """Ends it, frozen or not."""
        if self._process is not None and self._process.returncode is None:
            self.send(signal.SIGCONT)
            await self.kill()

    async def act(self, act: Act) -> None:
        """Does what a scenario says."""
        if act.what == "kill":
            await self.kill()
        elif act.what == "start":
            await self.start()
        elif act.what in ("stop", "continue"):
            self.send(signal.SIGSTOP if act.what == "stop" else signal.SIGCONT)
        elif act.what == "inject":
            await self._ask("POST", "/_fault", list(act.faults))
        else:
            await self._ask("DELETE", "/_fault")

    async def _collect(self) -> None:
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            self.seen += await self._ask("GET", "/_requests")

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        url = f"http://127.0.0.1:{self.control}{path}"
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.request(method, url, json=body) as answer:
            return await answer.json(content_type=None)


class Fleet:
    """The three, while the context lasts."""

    def __init__(self) -> None:
        self.backends = {name: Backend(name) for name in "abc"}

    async def __aenter__(self) -> Self:
        await asyncio.gather(*(backend.start() for backend in self.backends.values()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(backend.stop() for backend in self.backends.values()))

    def seen(self) -> list[dict[str, Any]]:
        """The generation requests that all of them got, probes of one token left out; after the context."""
        return [
            request
            for backend in self.backends.values()
            for request in backend.seen
            if (request["path"].startswith("/v1/") and request["method"] == "POST" and '"count from' in request["body"])
            or (request["path"] == "/v1/completions" and '"prompt":[' in request["body"].replace(" ", ""))
        ]
