"""The HTTP face of the image worker: OpenAI's images API, and a socket that is open before the pipeline is loaded."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from random import SystemRandom
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from backends.workers.diffusers.protocol import Drawing, ImageRequest, RequestError, checked, parse, read_source
from backends.workers.gpu_watch import GpuWatch, of_torch
from backends.workers.health_answer import health_answer
from backends.workers.serving import time_limit

if TYPE_CHECKING:  # torch and diffusers take seconds to import: they come with the pipeline, behind the open socket
    from backends.workers.diffusers.image_queue import ImageQueue, Job
    from backends.workers.diffusers.loading import Loaded
    from backends.workers.diffusers.metrics import Metrics
    from backends.workers.diffusers.painter import Picture

DEVICE_LOST = "CUDA error: the device is lost to this process. It restarts."
_MAX_BODY = 20 << 20
_RETRY_SOON = {"Retry-After": "1"}
_JSON = "application/json"
_seeds = SystemRandom()


class ImageServer:
    """Answers for one pipeline under one or more `served` names. Unready, with 503, until `open` is entered.

    `timeout`: the longest a request may take, in seconds, waiting included; a client's `X-Request-Timeout` shortens it.
    `gpus`: the devices to watch (default: the pipeline's).
    """

    def __init__(self, served: Sequence[str], *, timeout: float = 300.0, gpus: GpuWatch | None = None) -> None:
        self._served = tuple(served)
        self._timeout = timeout
        self._loaded: Loaded | None = None
        self._queue: ImageQueue | None = None
        self._metrics: Metrics | None = None
        self._gpus = gpus
        self._created = int(time.time())

    @asynccontextmanager
    async def open(self, loaded: Loaded, queue: ImageQueue) -> AsyncIterator[None]:
        """Serves with a loaded pipeline while the context lasts."""
        from backends.workers.diffusers.metrics import Metrics

        async with queue:
            self._gpus = self._gpus or of_torch(loaded.painter.device)
            self._loaded, self._queue, self._metrics = loaded, queue, Metrics()
            try:
                yield
            finally:
                self._queue = None

    def app(self) -> web.Application:
        """The application. Run it with `handler_cancellation=True`, so that a client that leaves stops its drawing."""
        app = web.Application(middlewares=[_answer_errors], client_max_size=_MAX_BODY)
        app.add_routes(
            [
                web.post("/v1/images/generations", self._generations),
                web.post("/v1/images/edits", self._edits),
                web.get("/v1/models", self._models),
                web.get("/health", self._health),
                web.get("/metrics", self._show_metrics),
            ]
        )
        return app

    def _ready(self) -> tuple[Loaded, ImageQueue, Metrics]:
        if self._loaded is None or self._queue is None or self._metrics is None:
            raise RequestError("Loading model", status=503, kind="server_error", code="model_loading")
        if self._queue.dead.is_set():
            raise RequestError(DEVICE_LOST, status=500, kind="server_error", code="generation_failed")
        return self._loaded, self._queue, self._metrics

    async def _generations(self, request: web.Request) -> web.StreamResponse:
        loaded, _, _ = self._ready()
        asked = parse(await request.read(), self._served)
        return await self._draw(request, asked, asked.drawing(loaded.rules, loaded.default_steps))

    async def _edits(self, request: web.Request) -> web.StreamResponse:
        loaded, _, _ = self._ready()
        if not loaded.painter.edits:
            raise RequestError("This pipeline cannot start from an image. Use /v1/images/generations.", status=404)
        fields, files = await _form(request)
        if "mask" in files:
            raise RequestError("A mask is not supported. Send the image and the prompt alone.", "mask")
        upload = files.get("image") or files.get("image[]")
        if upload is None:
            raise RequestError("image: Field required, as a file of a multipart/form-data body", "image")
        asked = checked(fields, self._served)
        source = await asyncio.to_thread(read_source, upload)
        return await self._draw(request, asked, asked.drawing(loaded.rules, loaded.default_steps, source))

    async def _draw(self, request: web.Request, asked: ImageRequest, drawing: Drawing) -> web.StreamResponse:
        _, queue, metrics = self._ready()
        from backends.workers.diffusers.image_queue import Job, QueueFullError

        first = _seeds.getrandbits(32) if asked.seed is None else asked.seed
        job = Job(drawing, [(first + index) % 2**63 for index in range(asked.n or 1)])
        try:
            queue.submit(job)
        except QueueFullError:
            metrics.outcomes.labels("refused").inc()
            message = "The server is overloaded: its queue is full. Try again later."
            raise RequestError(message, status=503, kind="server_error", code="model_overloaded") from None
        outcome = "failed"
        try:
            with metrics.duration.time():
                answer = await (self._stream if asked.stream else self._whole)(request, asked, job)
            outcome = "done"
            return answer
        except asyncio.CancelledError:
            outcome = "abandoned"
            raise
        finally:
            job.give_up()
            metrics.outcomes.labels(outcome).inc()

    async def _drawn(self, request: web.Request, job: Job) -> list[Picture]:
        """The pictures, in time. Raises RequestError."""
        from backends.workers.memory import is_out_of_memory, used_and_available

        loaded, _, _ = self._ready()
        limit = time_limit(request, self._timeout)
        try:
            async with asyncio.timeout(limit):
                return await job.result
        except TimeoutError:
            message = f"The image was not done within {limit:g} s. Ask for fewer steps, fewer images or a smaller size."
            raise RequestError(message, status=504, kind="server_error", code="inference_timeout") from None
        except Exception as error:
            if not is_out_of_memory(error):
                message = f"The pipeline failed ({type(error).__name__})."
                raise RequestError(message, status=500, kind="server_error", code="generation_failed") from None
            used, available = used_and_available(loaded.painter.device)
            message = (
                f"The device ran out of memory, also at half the size ({used >> 20} MiB used, {available >> 20} MiB "
                "available). Ask for a smaller size."
            )
            details = {"memory_used": used, "memory_available": available}
            raise RequestError(
                message, "size", status=507, kind="server_error", code="out_of_memory", details=details
            ) from None

    async def _whole(self, request: web.Request, asked: ImageRequest, job: Job) -> web.Response:
        pictures = await self._drawn(request, job)
        encoded = await asyncio.to_thread(lambda: [_encoded(picture, asked) for picture in pictures])
        document: dict[str, Any] = {
            "created": int(time.time()),
            "model": asked.model or self._served[0],
            "data": encoded,
            "size": "{}x{}".format(*pictures[0].image.size),
            "output_format": asked.output_format or "png",
        }
        if warnings := [picture.warning for picture in pictures if picture.warning]:
            document["warning"] = warnings[0]
        return _json(document)

    async def _stream(self, request: web.Request, asked: ImageRequest, job: Job) -> web.StreamResponse:
        """Progress after each step, then each image, as server-sent events named as OpenAI's."""
        progress: asyncio.Queue[int] = asyncio.Queue()
        job.on_step = progress.put_nowait
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        total = job.drawing.steps * len(job.seeds)
        drawn = asyncio.create_task(self._drawn(request, job))
        drawn.add_done_callback(lambda _done: progress.put_nowait(-1))
        try:
            while (done := await progress.get()) >= 0:
                await response.write(_event("image_generation.progress", {"step": done, "steps": total}))
            for index, picture in enumerate(await drawn):
                image = await asyncio.to_thread(_encoded, picture, asked)
                told = {"created_at": int(time.time()), "index": index, "size": "{}x{}".format(*picture.image.size)}
                if picture.warning:
                    told["warning"] = picture.warning
                await response.write(_event("image_generation.completed", told | image))
        except RequestError as error:
            await response.write(b"event: error\ndata: " + error.body + b"\n\n")
        finally:
            drawn.cancel()
        await response.write_eof()
        return response

    async def _models(self, request: web.Request) -> web.StreamResponse:
        entry = {"object": "model", "created": self._created, "owned_by": "seawall"}
        self._ready()
        return _json({"object": "list", "data": [{"id": name} | entry for name in self._served]})

    async def _health(self, request: web.Request) -> web.StreamResponse:
        if self._queue is None or self._gpus is None or self._queue.dead.is_set():
            return web.Response(status=503)
        return health_answer(await self._gpus.report())

    async def _show_metrics(self, request: web.Request) -> web.StreamResponse:
        from backends.workers.memory import used_and_available

        loaded, queue, metrics = self._ready()
        body = metrics.exposition(queue, used_and_available(loaded.painter.device))
        if self._gpus is not None:
            body += (await self._gpus.report()).exposition().encode()
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def _form(request: web.Request) -> tuple[dict[str, str], dict[str, bytes]]:
    """The fields and files of a multipart body; of several files of one name the first. Raises RequestError."""
    if request.content_type != "multipart/form-data":
        raise RequestError("The Content-Type of this request must be multipart/form-data.")
    try:
        form = await request.post()
    except ValueError:
        raise RequestError("The request body is not what multipart/form-data says it is.") from None
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for name, value in form.items():
        if isinstance(value, web.FileField):
            files.setdefault(name, value.file.read())
        elif isinstance(value, str):
            fields[name] = value
    return fields, files


@web.middleware
async def _answer_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except RequestError as refused:
        headers = _RETRY_SOON if refused.status == 503 else None
        return web.Response(body=refused.body, status=refused.status, content_type=_JSON, headers=headers)
    except web.HTTPException as error:
        body = RequestError(f"{error.reason}.", status=error.status).body
        return web.Response(body=body, status=error.status, content_type=_JSON)


def _encoded(picture: Picture, asked: ImageRequest) -> dict[str, Any]:
    kind = asked.output_format or "png"
    buffer = io.BytesIO()
    picture.image.save(buffer, kind)
    text = base64.b64encode(buffer.getvalue()).decode()
    named = {"url": f"data:image/{kind};base64,{text}"} if asked.response_format == "url" else {"b64_json": text}
    return named | {"seed": picture.seed}


def _event(name: str, told: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps({"type": name} | told))


def _json(value: Any) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type=_JSON)
