"""A model server that speaks vLLM's bytes, counts instead of thinking, and fails on demand.

In-process: `async with FaultBackend() as backend: backend.inject(fault("rst_mid_stream", times=1))`.
As a process: `python -m tests.support.fault_backend --port 9001`, or the same by this file's path; it prints
`ready URL CONTROL_URL` when it listens. Control over HTTP: `POST /_fault` (an object or a list of them; replaces),
`DELETE /_fault` (heals), `GET /_fault`, `GET|DELETE /_requests`, `POST /_set` (pace, concurrency, gauges). Faults on
accept bar the way to these too: give a control port.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

if __package__ in (None, ""):  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.exchange import CutError, Exchange
from tests.support.faults import Fault, FaultKind, FaultSet, fault, from_json
from tests.support.request_log import RequestLog, SeenRequest
from tests.support.sleep_mode import SleepMode
from tests.support.vllm_answers import Reply, StreamReply, VllmModel
from tests.support.wire import Connection, RawRequest


class FaultBackend:
    """The server. `port` 0 takes a free one on the first start and keeps it, so that `kill` and `start` restart it.

    `first_token` and `per_token`: the model's pace in seconds. `concurrency`: answers generated at once, others wait.
    `log`: the requests seen. `gauges`: overrides of the `vllm:` gauges on /metrics, by name without the prefix.
    """

    def __init__(
        self,
        model: VllmModel | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        control_port: int | None = None,
        first_token: float = 0.0,
        per_token: float = 0.0,
        concurrency: int | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model or VllmModel()
        self.host, self.port, self.control_port = host, port, control_port
        self.first_token, self.per_token = first_token, per_token
        self.log = RequestLog()
        self.gauges: dict[str, float] = {}
        self.connections_accepted = 0
        self._faults = FaultSet(seed)
        self._healed = asyncio.Event()
        self.sleep_mode = SleepMode()
        self._servers: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._running = self._queued = self._generated = self._answered = 0
        self.set_concurrency(concurrency)

    @property
    def url(self) -> str:
        """Base URL, without a path."""
        return f"http://{self.host}:{self.port}"

    def set_concurrency(self, limit: int | None) -> None:
        """How many answers are generated at once from now on; None: any number."""
        self._slots = asyncio.Semaphore(limit) if limit else None

    def inject(self, *faults: Fault | str) -> None:
        """Switches on these faults (or presets, by name) in place of what was on. Requests that hang go on hanging."""
        self._faults.replace(fault(each) if isinstance(each, str) else each for each in faults)

    def heal(self) -> None:
        """Switches off all faults; whatever hangs goes on."""
        self._faults.replace(())
        self._healed.set()
        self._healed = asyncio.Event()

    async def start(self) -> None:
        """Listens. Raises OSError when the port is taken."""
        await self._listen(self.port, self._serve)
        self.port = self._servers[-1].sockets[0].getsockname()[1]
        if self.control_port is not None:
            await self._listen(self.control_port, self._serve_control)
            self.control_port = self._servers[-1].sockets[0].getsockname()[1]

    async def kill(self) -> None:
        """What a kill -9 looks like from outside: connections reset, new ones refused. `start` brings it back."""
        for server in self._servers:
            server.close()
        for seen in self.log:
            self.log.end(seen, "cut", asyncio.get_running_loop().time())
        await asyncio.gather(*(connection.stop() for connection in list(self._connections)))
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    async def _listen(self, port: int, serve: Callable[[Connection], Any]) -> None:
        def accept() -> Connection:
            self.connections_accepted += 1
            return Connection(serve, self.connections_accepted)

        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_server(accept, self.host, port, reuse_address=True))

    async def _serve(self, connection: Connection) -> None:
        self._connections.add(connection)
        try:
            await self._on_accept(connection)
            while await self._exchange(connection, await connection.read_request()):
                pass
        except CutError:
            pass
        finally:
            self._connections.discard(connection)

    async def _serve_control(self, connection: Connection) -> None:
        self._connections.add(connection)
        try:
            while await self._control(connection, await connection.read_request()):
                pass
        finally:
            self._connections.discard(connection)

    async def _on_accept(self, connection: Connection) -> None:
        for each in self._faults.claim_accept():
            if each.kind is FaultKind.HANG:
                await self._pause(each.seconds)
            elif each.kind is FaultKind.RST:
                connection.reset()
            else:
                connection.close()

    async def _exchange(self, connection: Connection, request: RawRequest) -> bool:
        """Answers one request; whether the connection is to be kept."""
        if request.path.startswith("/_"):
            return await self._control(connection, request)
        faults = self._faults.claim(request.path, reused=connection.requests > 1)
        seen = self._seen(connection, request, faults)
        exchange = Exchange(
            connection, self.log, seen, faults, self._pause, first_token=self.first_token, per_token=self.per_token
        )
        now = asyncio.get_running_loop().time
        try:
            await exchange.begin()
            await self._answer(exchange, request, faults)
        except (asyncio.CancelledError, ConnectionError):
            self.log.end(seen, "aborted", now())
            raise
        finally:
            self._generated += seen.tokens_sent
        self.log.end(seen, "completed", now())
        return exchange.keep_alive

    async def _answer(self, exchange: Exchange, request: RawRequest, faults: list[Fault]) -> None:
        if (told := self.sleep_mode.answer(request)) is not None:
            await exchange.answer(told)
            return
        if not request.path.startswith("/v1/") or request.method != "POST":
            await exchange.answer(self._operational(request))
            return
        body = request.body
        if any(each.kind is FaultKind.HALF_BODY for each in faults):
            body = _without_stream(body)
        per_frame = exchange.tokens_per_frame
        reply = self.model.answer(request.method, request.path, request.headers, body, tokens_per_frame=per_frame)
        async with self._slot():
            await self.sleep_mode.until_awake()
            await exchange.answer(reply)

    def _operational(self, request: RawRequest) -> Reply | StreamReply:
        match request.path:
            case "/health" | "/ping":
                return Reply(b"")
            case "/metrics":
                return Reply(self._metrics(), content_type="text/plain; version=0.0.4; charset=utf-8")
            case "/load":
                return Reply(json.dumps({"server_load": self._running + self._queued}).encode())
            case "/version":
                return Reply(b'{"version":"0.32.0"}')
        return self.model.answer(request.method, request.path, request.headers, request.body)

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        slots = self._slots or contextlib.nullcontext()
        self._queued += 1
        try:
            await slots.__aenter__()
        finally:
            self._queued -= 1
        self._running += 1
        self._answered += 1
        try:
            yield
        finally:
            self._running -= 1
            await slots.__aexit__(None, None, None)

    async def _pause(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._healed.wait()

    def _seen(self, connection: Connection, request: RawRequest, faults: list[Fault]) -> SeenRequest:
        seen = SeenRequest(
            number=self.log.total + 1,
            method=request.method,
            path=request.path,
            headers=request.headers,
            body=request.body,
            connection=connection.number,
            reused=connection.requests > 1,
            received_at=asyncio.get_running_loop().time(),
            faults=tuple(each.kind.value for each in faults),
        )
        self.log.begin(seen)
        return seen

    def _metrics(self) -> bytes:
        labels = f'{{engine="0",model_name="{self.model.name}"}}'
        gauges: dict[str, float] = {
            "num_requests_running": self._running,
            "num_requests_waiting": self._queued,
            "kv_cache_usage_perc": min(1.0, self._running / 64),
        } | self.gauges
        counters = {"request_success_total": self._answered, "generation_tokens_total": self._tokens_made()}
        counters |= {"num_preemptions_total": 0}
        lines = self.sleep_mode.exposition(self.model.name)
        for kind, values in (("gauge", gauges), ("counter", counters)):
            for name, value in values.items():
                base = name.removesuffix("_total") if kind == "counter" else name
                lines += [f"# HELP vllm:{base} {base}.", f"# TYPE vllm:{base} {kind}"]
                lines.append(f"vllm:{name}{labels} {float(value)}")
        return ("\n".join(lines) + "\n").encode()

    def _tokens_made(self) -> int:
        return self._generated + sum(seen.tokens_sent for seen in self.log if seen.state == "running")

    async def _control(self, connection: Connection, request: RawRequest) -> bool:
        try:
            status, answer = 200, self._controlled(request)
        except (ValueError, TypeError, AttributeError) as error:
            status, answer = 400, {"error": str(error)}
        body = json.dumps(answer).encode()
        head = f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        await connection.write(head.encode() + body)
        return request.headers.get("connection", "").lower() != "close"

    def _controlled(self, request: RawRequest) -> Any:
        match request.method, request.path:
            case "POST", "/_fault":
                given = json.loads(request.body)
                self.inject(*(from_json(each) for each in (given if isinstance(given, list) else [given])))
            case "DELETE", "/_fault":
                self.heal()
            case "GET", "/_requests":
                return [seen.as_json() for seen in self.log]
            case "DELETE", "/_requests":
                self.log.clear()
            case "POST", "/_set":
                self._set(**json.loads(request.body))
            case "GET", "/_fault":
                pass
            case _:
                raise ValueError("unknown control path")
        return self._faults.as_json()

    def _set(self, **values: Any) -> None:
        self.first_token = float(values.pop("first_token", self.first_token))
        self.per_token = float(values.pop("per_token", self.per_token))
        self.gauges |= values.pop("gauges", {})
        if "concurrency" in values:
            self.set_concurrency(values.pop("concurrency"))
        if values:
            raise ValueError(f"unknown settings: {sorted(values)}")


def _without_stream(body: bytes) -> bytes:
    with contextlib.suppress(ValueError):
        return json.dumps(json.loads(body) | {"stream": False}).encode()
    return body


async def _run_script(backend: FaultBackend, steps: list[dict[str, Any]]) -> None:
    """Steps `{"at": seconds since the start, "faults": […]}`; an empty list of faults heals."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    for step in steps:
        await asyncio.sleep(started + float(step["at"]) - loop.time())
        if step["faults"]:
            backend.inject(*(from_json(each) for each in step["faults"]))
        else:
            backend.heal()


async def _main(options: argparse.Namespace) -> None:
    model = VllmModel(name=options.model, max_model_len=options.max_model_len, length=options.length)
    backend = FaultBackend(
        model,
        host=options.host,
        port=options.port,
        control_port=options.control_port,
        first_token=options.first_token,
        per_token=options.per_token,
        concurrency=options.concurrency,
        seed=options.seed,
    )
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with backend:
        control = backend.port if backend.control_port is None else backend.control_port
        print(f"ready {backend.url} http://{backend.host}:{control}", flush=True)
        script = asyncio.create_task(_run_script(backend, json.loads(options.script)))
        await stopped.wait()
        script.cancel()


def _parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control-port", type=int, default=None, help="a second port, for control only")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--max-model-len", type=int, default=4096)
    parser.add_argument("--length", type=int, default=64, help="tokens of an answer that max_tokens does not cut")
    parser.add_argument("--first-token", type=float, default=0.0, help="seconds")
    parser.add_argument("--per-token", type=float, default=0.0, help="seconds")
    parser.add_argument("--concurrency", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--script", default="[]", help='JSON: [{"at": 0, "faults": [{"kind": "oom"}]}, …]')
    return parser.parse_args(arguments)


if __name__ == "__main__":
    asyncio.run(_main(_parse()))
