"""Two real vLLM servers under the supervisor, and the gateway before them: processes, as an operator runs them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.support.processes import Process, free_port, status_of, wait_until
from tests.support.vllm.install import Installed

#: A loaded machine takes its time; none of the tests waits longer than it must.
START_TIMEOUT = 300.0
_FLAGS = ("--max-model-len", "512", "--enforce-eager", "--dtype", "float32")
_CONFIG = """
server: {{listen: '127.0.0.1:{port}'}}
backends:
  a: {{url: '{a}', kind: vllm, health: {{interval: 1s}}}}
  b: {{url: '{b}', kind: vllm, health: {{interval: 1s}}}}
  wrong: {{url: '{a}', kind: vllm, model: no-such-model}}
routes:
  - {{model: tiny, backends: [a, b]}}
  - {{model: ghost, backends: [wrong]}}
policies:
  default:
    timeout: {{first_token: 5s, idle: 5s, total: 2m}}
    circuit_breaker: {{consecutive_failures: 3, open_for: 2s}}
"""


class VLLMWorker:
    """`seawall worker vllm` as a process, with its supervisor's own port."""

    def __init__(
        self,
        installed: Installed,
        *options: str,
        model: Path | None = None,
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.port, self.status_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        ports = ("--port", str(self.port), "--status-port", str(self.status_port))
        command = [
            "worker",
            "vllm",
            str(model or installed.model),
            "--name",
            "tiny",
            "--program",
            str(installed.program),
        ]
        flags = (*_FLAGS, *installed.flags, *flags)
        self.process = Process.python(
            "-m", "gateway", *command, *ports, *options, "--", *flags, env={**installed.env, **(env or {})}
        )

    def status(self) -> dict[str, Any]:
        """The supervisor's view of it."""
        worker: dict[str, Any] = get(f"http://127.0.0.1:{self.status_port}/status")["workers"][0]
        return worker

    def state(self) -> str:
        """Its state's name; `gone` when the supervisor does not answer."""
        try:
            return str(self.status()["state"])
        except OSError:
            return "gone"

    def wait_ready(self, *, restarts: int = 0) -> float:
        """Waits until it is ready, after at least so many restarts; seconds that its last load took."""

        def ready() -> bool:
            assert self.process.returncode is None, self.process.output
            return self.state() == "ready" and self.status()["restarts"] >= restarts

        wait_until(ready, START_TIMEOUT, "vLLM's readiness")
        return float(self.status()["load_seconds"])

    def engine(self) -> psutil.Process:
        """vLLM's engine process."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "EngineCore" in " ".join(child.cmdline()):
                    return child
        raise AssertionError("no engine runs")

    def family(self) -> list[psutil.Process]:
        """The supervisor and all that runs under it."""
        supervisor = psutil.Process(self.process.pid)
        server = int(self.status()["pid"])
        group = [each for each in psutil.process_iter() if _group(each.pid) == server]
        return [supervisor, *group]

    def close(self) -> None:
        """Ends the supervisor, and with it everything."""
        self.process.terminate()
        with contextlib.suppress(AssertionError):
            self.process.wait(60)
        self.process.close()


class Stack:
    """Workers `a` and `b`, and the gateway's url."""

    def __init__(self, a: VLLMWorker, b: VLLMWorker, gateway: Process, url: str) -> None:
        self.a, self.b = a, b
        self.gateway = gateway
        self.url = url

    def endpoint(self, name: str) -> dict[str, Any]:
        """What the gateway's /status says of a backend."""
        found: dict[str, Any] = get(f"{self.url}/status")["endpoints"][name]
        return found

    def resumes(self, way: str = "token_ids") -> int:
        """Streams that the gateway has resumed, from token ids or by `replay`."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        samples = re.findall(
            rf'^seawall_stream_resumes_total\{{[^}}]*outcome="{way}"[^}}]*\}} (\S+)', text, re.MULTILINE
        )
        return sum(int(float(value)) for value in samples)

    def wait_healthy(self) -> None:
        """Waits until both workers are ready and the gateway uses both."""
        for worker in (self.a, self.b):
            worker.wait_ready()
        for name in ("a", "b"):
            try:
                wait_until(lambda name=name: self._whole(name), 60, f"the gateway's use of {name}")
            except TimeoutError as late:
                raise TimeoutError(f"{late}: {self.endpoint(name)}") from None

    def _whole(self, name: str) -> bool:
        """Whether an endpoint is in use; asks something, as only an answer closes a circuit."""
        endpoint = self.endpoint(name)
        if endpoint["breaker"] != "closed":
            body = json.dumps({"model": "tiny", "prompt": "Hi", "max_tokens": 1}).encode()
            headers = {"Content-Type": "application/json"}
            urllib.request.urlopen(
                urllib.request.Request(f"{self.url}/v1/completions", body, headers), timeout=30
            ).close()
        return endpoint["healthy"] and endpoint["state"] == "healthy" and endpoint["breaker"] == "closed"


@contextlib.contextmanager
def running_stack(installed: Installed, folder: Path) -> Iterator[Stack]:
    """Starts all three and waits until they are well."""
    with contextlib.ExitStack() as exits:
        workers = []
        for _ in "ab":
            workers.append(VLLMWorker(installed, "--liveness-timeout", "6", "--drain", "5"))
            exits.callback(workers[-1].close)
        a, b = workers
        port = free_port()
        config = folder / "gateway.yaml"
        config.write_text(_CONFIG.format(port=port, a=a.url, b=b.url))
        gateway = exits.enter_context(Process.python("-m", "gateway", "serve", "--config", str(config)))
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: status_of(f"{url}/livez") == 200, 60, "the gateway")
        stack = Stack(a, b, gateway, url)
        stack.wait_healthy()
        yield stack


def get(url: str) -> Any:
    """The JSON of a GET. Raises OSError."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None
