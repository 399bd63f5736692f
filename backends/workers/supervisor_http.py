"""The supervisor's own HTTP: `/status`, `/metrics` and `/health` of its workers and their GPUs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import orjson
from aiohttp import web

from backends.workers.gpu_watch import GpuWatch
from backends.workers.health_answer import health_answer
from backends.workers.supervisor_report import RETRY_AFTER, answer_in_place, as_json, exposition
from backends.workers.supervisor_state import WorkerSnapshot, WorkerState
from policies.outcome import ErrorKind

_JSON = "application/json"


def answer_for_one(path: str, worker: WorkerSnapshot) -> web.Response:
    """Any request to a worker that is down. `/health` and all that wants the model get 503, and why."""
    if path == "/metrics":
        return _closing(_metrics([worker]))
    if path == "/status":
        return _closing(_json({"workers": [as_json(worker)]}))
    answer = _json(answer_in_place(worker), 503)
    if worker.error_type is not ErrorKind.MODEL_LOADING_FAILED:
        answer.headers["Retry-After"] = str(RETRY_AFTER)
    return _closing(answer)


@asynccontextmanager
async def status_server(
    host: str, port: int, snapshot: Callable[[], Sequence[WorkerSnapshot]], gpus: GpuWatch
) -> AsyncIterator[None]:
    """Serves what is known of all workers and their `gpus` while the context lasts.

    Raises OSError if the port is taken.
    """

    async def status(request: web.Request) -> web.Response:
        devices = await gpus.report()
        return _json({"workers": [as_json(worker) for worker in snapshot()], **devices.as_json()})

    async def metrics(request: web.Request) -> web.Response:
        return _metrics(snapshot(), (await gpus.report()).exposition())

    async def health(request: web.Request) -> web.Response:
        down = [worker for worker in snapshot() if worker.state is not WorkerState.READY]
        return _json(answer_in_place(down[0]), 503) if down else health_answer(await gpus.report())

    app = web.Application()
    app.add_routes([web.get("/status", status), web.get("/metrics", metrics), web.get("/health", health)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()


def _metrics(workers: Sequence[WorkerSnapshot], more: str = "") -> web.Response:
    headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    return web.Response(body=(exposition(workers) + more).encode(), headers=headers)


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type=_JSON)


def _closing(answer: web.Response) -> web.Response:
    """The connection must not outlive the stand-in: the next request on it is the server's."""
    answer.force_close()
    return answer
