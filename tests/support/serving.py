"""`seawall serve` as a process, and what tests ask of it from outside."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import aiohttp

from tests.integration.test_operations import sample
from tests.support.processes import FaultProcess, Process


def gateway_yaml(*backends: FaultProcess | str, server: str = "", more: str = "") -> str:
    """A gateway.yaml with these backends in one tier of the model `tiny`."""
    urls = [backend if isinstance(backend, str) else backend.url for backend in backends]
    lines = "\n".join(f"  b{number}: {{url: '{url}', kind: vllm}}" for number, url in enumerate(urls))
    names = ", ".join(f"b{number}" for number in range(len(urls)))
    return f"server: {{{server}}}\nbackends:\n{lines}\nroutes: [{{model: tiny, backends: [{names}]}}]\n{more}\n"


class Serving(Process):
    """A running gateway on `port`; `inherit` is a listening socket that it is started with, `module` what is run."""

    def __init__(self, path: Path, port: int, inherit: socket.socket | None = None, module: str = "gateway") -> None:
        self.url = f"http://127.0.0.1:{port}"
        command = ["-m", module, "serve", "--config", str(path), "--port", str(port)]
        if inherit is None:
            super().__init__([sys.executable, *command])
        else:  # as systemd does it: descriptor 3, and the process id of who is meant
            shell = f'exec 3<&{inherit.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"'
            os.set_inheritable(inherit.fileno(), True)
            super().__init__(["bash", "-c", shell, sys.executable, *command], close_fds=False)
        try:
            self.wait_for_line("listening")
        except BaseException:
            self.close()
            raise

    async def get(self, path: str) -> Any:
        """The JSON that a path answers, over a connection of its own."""
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as answer:
            return await answer.json(content_type=None)

    async def sample(self, name: str, **labels: str) -> float:
        """One number of `/metrics`."""
        async with aiohttp.ClientSession() as session, session.get(self.url + "/metrics") as answer:
            return sample(await answer.text(), name, **labels)

    async def workers(self) -> dict[int, int]:
        """Process ids of the workers by their number."""
        return {one["worker"]: one["pid"] for one in (await self.get("/status"))["workers"]}
