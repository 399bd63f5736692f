"""While a supervised server is down its port says so: never a refused connection, never a wrong cause."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from backends.workers.gpu_watch import GpuWatch
from backends.workers.load_failure import Cause
from backends.workers.supervisor import RestartSettings, Supervisor, WorkerSnapshot, WorkerSpec, WorkerState
from backends.workers.supervisor_http import status_server
from backends.workers.supervisor_stand_in import StandIn
from tests.support.gateway import running_gateway
from tests.support.processes import Process, free_port
from tests.support.workers import snapshot

SHARE_PORT = Path(sys.modules[Supervisor.__module__].__file__ or "").with_name("supervisor_share_port.py")
#: Binds at once, "loads" until a file is there, and only then listens: as vLLM does.
SERVER = """
import http.server, pathlib, socket, sys, time
port, gate = int(sys.argv[1]), pathlib.Path(sys.argv[2])
sock = socket.socket()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind(("127.0.0.1", port))
print("Loading shards:  50% Completed | 1/2", flush=True)
while not gate.exists():
    time.sleep(0.01)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"up")
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler, bind_and_activate=False)
server.socket.close()
server.socket = sock
server.server_activate()
server.serve_forever()
"""
CONFIG = """
server: {{listen: '127.0.0.1:0'}}
backends:
  w: {{url: '{url}', kind: vllm, health: {{interval: 50ms}}}}
routes:
  - {{model: tiny, backends: [w]}}
policies: {{default: {{admission: {{max_wait: 500ms}}}}}}
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="two listeners on one port are Linux's")


class Loading:
    """A supervised server that is ready as soon as `finish` is called."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.gate = folder / "loaded"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        script = folder / "server.py"
        script.write_text(SERVER)
        values: dict[str, Any] = {
            "name": "w",
            "argv": [sys.executable, str(SHARE_PORT), str(self.port), str(script), str(self.port), str(self.gate)],
            "health_url": f"{self.url}/health",
            "stand_in": True,
            "shares_port": True,
            "ready_poll": 0.02,
            "restart": RestartSettings(initial=0.05, max=0.05, jitter=0, max_failures=2),
        }
        self.spec = WorkerSpec(**values | changes)
        self.supervisor = Supervisor([self.spec], on_line=lambda name, line: None)

    def finish(self) -> None:
        self.gate.touch()

    async def until(self, *states: WorkerState) -> WorkerSnapshot:
        async with asyncio.timeout(20):
            return (await self.supervisor.wait_until(lambda every: every[0].state in states))[0]


async def until(condition: Callable[[], bool]) -> None:
    """Waits for it while the loop runs on. Raises TimeoutError after ten seconds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - these have no event
            await asyncio.sleep(0.01)


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


async def test_a_loading_worker_answers_with_its_progress(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    loading = Loading(tmp_path)
    async with loading.supervisor:
        async with asyncio.timeout(20):
            await loading.supervisor.wait_until(lambda every: bool(every[0].last_lines))
        for method, path in (("GET", "/health"), ("POST", "/v1/chat/completions"), ("GET", "/v1/models")):
            async with client.request(method, loading.url + path, data=b"x" * 100_000) as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
                error = (await answer.json())["error"]
        assert error["type"] == "model_loading"
        assert error["worker"]["last_lines"] == ["Loading shards: 50% Completed | 1/2"]
        assert error["message"].startswith("Worker w is loading its model: 50%")
        loading.finish()
        await loading.until(WorkerState.READY)
        async with client.get(f"{loading.url}/health") as answer:
            assert (answer.status, await answer.text()) == (200, "up")


async def test_no_connection_is_refused_from_the_end_of_one_life_to_the_next(
    tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    loading = Loading(tmp_path)
    loading.finish()
    statuses: list[int] = []

    async def ask() -> None:
        while True:
            async with client.get(f"{loading.url}/v1/models") as answer:
                statuses.append(answer.status)
                await answer.read()

    async with loading.supervisor:
        first = await loading.until(WorkerState.READY)
        assert first.pid is not None
        loading.gate.unlink()
        os.kill(first.pid, signal.SIGKILL)
        await loading.until(WorkerState.BACKOFF)
        asking = [asyncio.create_task(ask()) for _ in range(4)]
        await loading.until(WorkerState.LOADING)
        loading.finish()
        await loading.until(WorkerState.READY)
        await until(lambda: statuses[-1:] == [200])
        for task in asking:
            assert not task.done(), task.exception()  # a refused or reset connection would have ended it
            task.cancel()
    assert set(statuses) == {200, 503}


async def test_a_handover_resets_nobody() -> None:
    """Connections pour in while the server begins to listen and the stand-in leaves, twenty times."""

    async def serve(request: web.BaseRequest) -> web.Response:
        answer = web.Response(text="up")
        answer.force_close()
        return answer

    async def ask(port: int, over: asyncio.Event) -> int:
        answered = 0
        while not over.is_set():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nhost: w\r\n\r\n")
            answered += bool(await reader.read(100))
            writer.close()
        return answered

    for _ in range(20):
        port, over = free_port(), asyncio.Event()
        stand_in = StandIn("127.0.0.1", port, lambda: snapshot(WorkerState.LOADING))
        await stand_in.open()
        asking = [asyncio.create_task(ask(port, over)) for _ in range(8)]
        runner = web.ServerRunner(web.Server(serve))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, reuse_port=True).start()
        await stand_in.hand_over()
        over.set()
        assert all(await asyncio.gather(*asking))
        await runner.cleanup()


async def test_a_worker_given_up_says_why_to_its_gateway(tmp_path: Path) -> None:
    script = (
        "import sys; sys.exit('safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge')"
    )
    lost = Loading(tmp_path, argv=[sys.executable, "-c", script])
    async with lost.supervisor, running_gateway(CONFIG.format(url=lost.url)) as gateway:
        failed = await lost.until(WorkerState.FAILED)
        assert (failed.restarts, failed.failure and failed.failure.cause) == (1, Cause.WEIGHTS)
        await until(lambda: gateway.gateway.runtime.endpoints["w"].state == "failed")
        endpoint = (await gateway.get("/status")).json["endpoints"]["w"]
        assert endpoint["message"].startswith("its model cannot be loaded: bad_weights. Copy or download")
        assert "HeaderTooLarge" in endpoint["last_lines"][-1]
        started = monotonic()
        refused = await gateway.chat()
        assert (refused.status, refused.error["error_type"]) == (503, "model_loading_failed")
        assert refused.headers["x-should-retry"] == "false"
        assert monotonic() - started < 2  # nothing to wait for
        assert (await gateway.get("/health")).json["checks"]["backends"]["status"] != "healthy"


async def test_a_request_waits_for_a_loading_model_and_is_told_so_in_the_end(tmp_path: Path) -> None:
    loading = Loading(tmp_path)
    async with loading.supervisor, running_gateway(CONFIG.format(url=loading.url)) as gateway:
        await until(lambda: gateway.gateway.runtime.endpoints["w"].state == "loading")
        refused = await gateway.chat()
        assert (refused.status, refused.error["error_type"]) == (503, "model_loading")
        assert refused.headers["x-should-retry"] == "true"
        assert "retry-after" in refused.headers
        loading.finish()
        await until(lambda: gateway.gateway.runtime.endpoints["w"].healthy)


async def test_another_programs_port_is_left_alone(tmp_path: Path) -> None:
    loading = Loading(tmp_path)

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(other, "127.0.0.1", loading.port, reuse_port=True), loading.supervisor:
        failed = await loading.until(WorkerState.FAILED)
        assert failed.failure is not None
        assert failed.failure.cause is Cause.PORT
        for _ in range(20):
            with pytest.raises(aiohttp.ClientError):
                async with aiohttp.ClientSession() as session, session.get(loading.url):
                    pass


async def test_the_supervisors_own_port_tells_state_and_metrics(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    loading, port = Loading(tmp_path), free_port()
    url = f"http://127.0.0.1:{port}"
    async with status_server("127.0.0.1", port, loading.supervisor.snapshot, GpuWatch()), loading.supervisor:
        await loading.until(WorkerState.LOADING)
        async with client.get(f"{url}/health") as answer:
            assert (answer.status, (await answer.json())["error"]["type"]) == (503, "model_loading")
        loading.finish()
        first = await loading.until(WorkerState.READY)
        async with client.get(f"{url}/health") as answer:
            assert answer.status == 200
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        await loading.until(WorkerState.BACKOFF)
        await loading.until(WorkerState.READY)
        async with client.get(f"{url}/status") as answer:
            [worker] = (await answer.json())["workers"]
        async with client.get(f"{url}/metrics") as answer:
            families = {family.name: family for family in text_string_to_metric_families(await answer.text())}
    assert (worker["state"], worker["restarts"], worker["exit_code"]) == ("ready", 1, -9)
    assert "SIGKILL" in worker["last_error"]
    values = {name: family.samples[0].value for name, family in families.items() if len(family.samples) == 1}
    assert (values["seawall_worker_up"], values["seawall_worker_restarts"]) == (1, 1)
    assert values["seawall_worker_uptime_seconds"] > 0
    assert values["seawall_worker_load_seconds"] > 0
    assert values["seawall_worker_last_error_timestamp_seconds"] > 1.7e9


def test_the_command_lingers_saying_why_and_then_fails(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    program = tmp_path / "vllm"
    program.write_text(f"#!{sys.executable}\nraise SystemExit('torch.OutOfMemoryError: CUDA out of memory.')\n")
    program.chmod(0o755)
    port = str(free_port())
    command = ["worker", "vllm", str(tmp_path), "--port", port, "--program", str(program)]
    with Process.python("-m", "gateway", *command, "--max-failures", "0", "--linger", "600") as process:
        process.wait_for_line("their ports will say so for 600 s", timeout=40)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5)
        with refused.value as answer:
            error = json.load(answer)["error"]
        assert (error["type"], error["worker"]["cause"]) == ("model_loading_failed", "out_of_memory")
        process.terminate()
        assert process.wait() == 1
        assert "out_of_memory: Free memory on the device" in process.output
