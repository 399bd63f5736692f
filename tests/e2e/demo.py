"""`seawall demo` as a process, on free ports."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.processes import Process, free_port

_WORKERS = ("TIDE_A", "TIDE_B", "TIDE_MINI", "SHOAL")


class Demo:
    """A running `seawall demo`."""

    def __init__(self, process: Process, url: str) -> None:
        self.process = process
        self.url = url

    def get(self, path: str) -> str:
        """The body of a GET."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer to a JSON request."""
        data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=60) as answer:
            return json.load(answer)

    def breaker(self, backend: str) -> int:
        """0 closed, 1 half open, 2 open; from the metrics."""
        found = re.search(rf'seawall_endpoint_breaker_state{{backend="{backend}"}} (\d)', self.get("/metrics"))
        assert found
        return int(found[1])

    def health(self) -> str:
        """healthy, degraded or critical."""
        status: str = json.loads(self.get("/health"))["overall_status"]
        return status


@contextmanager
def running_demo() -> Iterator[Demo]:
    """Starts it, waits until it is ready, and checks that SIGTERM ends it well."""
    env = {f"SEAWALL_{name}_PORT": str(free_port()) for name in _WORKERS}
    port = free_port()
    with Process.python("-m", "gateway", "demo", "--port", str(port), env=env) as process:
        process.wait_for_line("Seawall is ready", timeout=120)
        yield Demo(process, f"http://127.0.0.1:{port}")
        process.terminate()
        assert process.wait(30) == 0
