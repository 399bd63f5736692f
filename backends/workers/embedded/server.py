"""The HTTP face of a text worker: vLLM 0.32's paths, and a socket that is open before the model is loaded."""

from __future__ import annotations

import asyncio
import base64
import logging
import struct
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from aiohttp import web

from backends.workers.embedded import protocol
from backends.workers.embedded.protocol import RequestError, error_body
from backends.workers.gpu_watch import GpuWatch, of_torch
from backends.workers.health_answer import health_answer
from backends.workers.serving import time_limit

if TYPE_CHECKING:  # torch takes seconds to import: it comes with the model, behind the open socket
    from backends.workers.embedded.engine import Engine
    from backends.workers.embedded.frames import Answer
    from backends.workers.embedded.generation import Generation
    from backends.workers.embedded.loading import Loaded

logger = logging.getLogger(__name__)

ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
OVERLOADED = "The server is overloaded, try again later."
_MAX_BODY = 20 << 20
_RETRY_SOON = {"Retry-After": "1"}
_JSON = "application/json"
_R = TypeVar("_R", bound=protocol._Request)


class TextServer:
    """Answers for one model under one or more `served` names. Unready, with 503 everywhere, until `open` is entered.

    `timeout`: the longest time of a request in seconds, waiting included; an `X-Request-Timeout` header may shorten it.
    `gpus`: the devices to watch (default: the loaded model's).
    """

    def __init__(
        self, served: Sequence[str], version: str, *, timeout: float = 300.0, gpus: GpuWatch | None = None
    ) -> None:
        self._served = tuple(served)
        self._timeout = timeout
        self._version = version
        self._engine: Engine | None = None
        self._loaded: Loaded | None = None
        self._gpus = gpus
        self._load = 0

    @asynccontextmanager
    async def open(self, loaded: Loaded, engine: Engine) -> AsyncIterator[None]:
        """Serves with a loaded model while the context lasts."""
        async with engine:
            self._gpus = self._gpus or of_torch(loaded.model.device)
            self._loaded, self._engine = loaded, engine
            try:
                yield
            finally:
                self._engine = None

    def app(self) -> web.Application:
        """The application. Run it with `handler_cancellation=True`, so that a client that leaves frees its place."""
        app = web.Application(middlewares=[self._answer_errors], client_max_size=_MAX_BODY)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/completions", self._completion),
                web.post("/v1/embeddings", self._embeddings),
                web.post("/tokenize", self._tokenize),
                web.post("/detokenize", self._detokenize),
                web.get("/v1/models", self._models),
                web.get("/health", self._health),
                web.get("/ping", self._health),
                web.get("/load", self._server_load),
                web.get("/version", self._show_version),
                web.get("/metrics", self._metrics),
            ]
        )
        return app

    @web.middleware
    async def _answer_errors(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except RequestError as refused:
            headers = _RETRY_SOON if refused.status == 503 else None
            return web.Response(body=refused.body, status=refused.status, content_type=_JSON, headers=headers)
        except web.HTTPRequestEntityTooLarge:
            body = error_body("The request body is too large.", "BadRequestError", 413)
            return web.Response(body=body, status=413, content_type=_JSON)
        except web.HTTPException as error:
            return _json({"detail": error.reason}, error.status)

    def _ready(self) -> tuple[Loaded, Engine]:
        if self._loaded is None or self._engine is None:
            raise RequestError("Loading model", status=503, kind="unavailable_error")
        if self._engine.dead.is_set():
            raise RequestError(ENGINE_DEAD, status=500, kind="InternalServerError")
        return self._loaded, self._engine

    async def _parsed(self, kind: type[_R], request: web.Request) -> _R:
        return protocol.parse(kind, await request.read(), self._served)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        loaded, engine = self._ready()
        asked = await self._parsed(protocol.ChatRequest, request)
        asked.check_template()
        wanted = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
        named = "max_tokens" if asked.max_completion_tokens is None else "max_completion_tokens"
        protocol.check_max_tokens(wanted, engine.max_model_len, named)
        messages = [message.as_text() for message in asked.messages]
        self._check_size(sum(len(message["content"]) for message in messages), wanted)
        prompt = loaded.tokenizer.chat(
            messages, add_generation_prompt=asked.add_generation_prompt, continue_final=asked.continue_final_message
        )
        budget = protocol.output_budget(len(prompt), wanted, engine.max_model_len)
        params = asked.sampling(budget, asked.alternatives(), loaded.defaults)
        role = messages[-1]["role"] if asked.continue_final_message and messages else "assistant"
        answer = self._answer(request, asked, [prompt], chat=True, logprobs=params.logprobs is not None, role=role)
        return await self._generate(request, answer, _submit(engine, [prompt], [params], asked.choices), asked.stream)

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        loaded, engine = self._ready()
        asked = await self._parsed(protocol.CompletionRequest, request)
        given = asked.prompts()
        protocol.check_max_tokens(asked.max_tokens, engine.max_model_len)
        prompts = [self._ids(one, asked.max_tokens, bos=asked.add_special_tokens) for one in given]
        budgets = [protocol.output_budget(len(ids), asked.max_tokens, engine.max_model_len) for ids in prompts]
        params = [asked.sampling(budget, asked.logprobs, loaded.defaults) for budget in budgets]
        answer = self._answer(request, asked, prompts, chat=False, logprobs=asked.logprobs is not None)
        return await self._generate(request, answer, _submit(engine, prompts, params, asked.choices), asked.stream)

    def _answer(
        self,
        request: web.Request,
        asked: protocol.ChatRequest | protocol.CompletionRequest,
        prompts: Sequence[Sequence[int]],
        *,
        chat: bool,
        logprobs: bool,
        role: str = "assistant",
    ) -> Answer:
        from backends.workers.embedded.frames import Answer

        loaded, _ = self._ready()
        options = asked.stream_options
        return Answer(
            answer_id=f"{'chatcmpl' if chat else 'cmpl'}-{_request_id(request)}",
            model=asked.model or self._served[0],
            fingerprint=loaded.fingerprint,
            tokenizer=loaded.tokenizer,
            prompts=prompts,
            chat=chat,
            n=asked.choices,
            with_ids=bool(asked.return_token_ids),
            logprobs=logprobs,
            include_usage=options is not None and options.include_usage,
            continuous=options is not None and options.include_usage and options.continuous_usage_stats,
            role=role,
        )

    async def _generate(
        self, request: web.Request, answer: Answer, generation: Generation, stream: bool | None
    ) -> web.StreamResponse:
        self._load += 1
        limit = time_limit(request, self._timeout)
        try:
            return await (_stream(request, answer, generation, limit) if stream else _whole(answer, generation, limit))
        finally:
            self._load -= 1
            generation.abort()

    def _ids(self, prompt: str | Sequence[int], asked: int | None, *, bos: bool = True) -> Sequence[int]:
        loaded, _ = self._ready()
        if not isinstance(prompt, str):
            if outside := [token for token in prompt if not 0 <= token < loaded.tokenizer.vocab_size]:
                raise RequestError(f"Token id {outside[0]} is out of vocabulary")
            return prompt
        self._check_size(len(prompt), asked)
        return loaded.tokenizer.encode(prompt, special=bos)

    def _check_size(self, characters: int, asked: int | None) -> None:
        loaded, engine = self._ready()
        protocol.check_characters(characters, asked, engine.max_model_len, loaded.tokenizer.longest_token)

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        loaded, engine = self._ready()
        asked = await self._parsed(protocol.EmbeddingRequest, request)
        if asked.encoding_format not in ("float", "base64"):
            raise RequestError(
                f"encoding_format must be float or base64, got {asked.encoding_format}.", "encoding_format"
            )
        if asked.dimensions is not None:
            message = (
                f"Model `{self._served[0]}` does not support matryoshka representation, changing output dimensions"
            )
            raise RequestError(f"{message} will lead to poor results.", "dimensions")
        if not asked.input:
            raise RequestError("Either prompt or prompt_embeds must be provided and non-empty.", "input")
        inputs = [self._ids(one, None) for one in protocol.texts_or_ids(asked.input)]
        for ids in inputs:
            protocol.output_budget(len(ids) - 1, None, engine.max_model_len)
        vectors = await _embedded(engine, inputs, time_limit(request, self._timeout))
        data = [
            {"index": index, "object": "embedding", "embedding": _encoded(vector, asked.encoding_format)}
            for index, vector in enumerate(vectors)
        ]
        total = sum(map(len, inputs))
        usage = {"prompt_tokens": total, "total_tokens": total, "completion_tokens": 0, "prompt_tokens_details": None}
        head = {"id": f"embd-{_request_id(request)}", "object": "list", "created": loaded.created}
        return _json(head | {"model": asked.model or self._served[0], "data": data, "usage": usage})

    async def _tokenize(self, request: web.Request) -> web.StreamResponse:
        loaded, engine = self._ready()
        asked = await self._parsed(protocol.TokenizeRequest, request)
        if asked.messages is not None:
            messages = [message.as_text() for message in asked.messages]
            opened = asked.add_generation_prompt
            ids: Sequence[int] = loaded.tokenizer.chat(
                messages, add_generation_prompt=opened, continue_final=asked.continue_final_message
            )
        elif asked.prompt is not None:
            ids = loaded.tokenizer.encode(asked.prompt, special=asked.add_special_tokens)
        else:
            detail = "{'type': 'missing', 'loc': 'body.prompt', 'msg': 'Field required'}"
            raise RequestError(f"1 validation error:\n  {detail}", "body.prompt", kind="Bad Request")
        strings = [loaded.tokenizer.decode([token]) for token in ids] if asked.return_token_strs else None
        return _json({"count": len(ids), "max_model_len": engine.max_model_len, "tokens": ids, "token_strs": strings})

    async def _detokenize(self, request: web.Request) -> web.StreamResponse:
        loaded, _ = self._ready()
        asked = await self._parsed(protocol.DetokenizeRequest, request)
        return _json({"prompt": loaded.tokenizer.decode(self._ids(asked.tokens, None))})

    async def _models(self, request: web.Request) -> web.StreamResponse:
        loaded, engine = self._ready()
        entry = {"object": "model", "created": loaded.created, "owned_by": "vllm", "root": loaded.name, "parent": None}
        entry |= {"max_model_len": engine.max_model_len, "permission": []}
        return _json({"object": "list", "data": [{"id": name} | entry for name in self._served]})

    async def _health(self, request: web.Request) -> web.StreamResponse:
        if self._engine is None or self._gpus is None or self._engine.dead.is_set():
            return web.Response(status=503)
        return health_answer(await self._gpus.report())

    async def _server_load(self, request: web.Request) -> web.StreamResponse:
        return _json({"server_load": self._load})

    async def _show_version(self, request: web.Request) -> web.StreamResponse:
        return _json({"version": self._version})

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        from backends.workers.embedded.metrics import exposition

        _, engine = self._ready()
        text = exposition(engine, self._served[0])
        if self._gpus is not None:
            text += (await self._gpus.report()).exposition()
        return web.Response(text=text, content_type="text/plain", charset="utf-8")


def _submit(engine: Engine, prompts: Sequence[Sequence[int]], params: Sequence[Any], n: int) -> Generation:
    try:
        return engine.submit(prompts, params, n)
    except Exception as error:
        raise _refusal(error, 0.0) from error


async def _embedded(engine: Engine, inputs: Sequence[Sequence[int]], limit: float) -> list[list[float]]:
    try:
        async with asyncio.timeout(limit):
            return [await engine.embed(ids) for ids in inputs]
    except Exception as error:
        raise _refusal(error, limit) from error


async def _whole(answer: Answer, generation: Generation, limit: float) -> web.Response:
    try:
        async with asyncio.timeout(limit):
            while deltas := await generation.next():
                answer.add(deltas)
    except Exception as error:
        raise _refusal(error, limit) from error
    return web.Response(body=answer.whole(), content_type=_JSON)


async def _stream(request: web.Request, answer: Answer, generation: Generation, limit: float) -> web.StreamResponse:
    from backends.workers.embedded.frames import DONE

    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    opening = answer.opening()
    try:
        await response.prepare(request)
        try:
            async with asyncio.timeout(limit):
                while deltas := await generation.next():
                    await response.write(opening + b"".join(answer.frame(delta) for delta in deltas))
                    opening = b""
                await response.write(answer.closing())
        except ConnectionError:
            raise
        except Exception as error:
            await response.write(b"data: " + _refusal(error, limit).body + b"\n\n" + DONE)
        await response.write_eof()
    except ConnectionError:
        logger.debug("a client left in mid-stream")
    return response


def _refusal(error: Exception, limit: float) -> RequestError:
    """What a failure of the engine is to the client. Raises the error itself if it is none of those."""
    from backends.workers.embedded.generation import EngineDeadError, NoMemoryError, OverloadedError

    match error:
        case TimeoutError():
            return RequestError(f"The answer took longer than {limit:g} s.", status=504, kind="inference_timeout")
        case EngineDeadError():
            return RequestError(ENGINE_DEAD, status=500, kind="InternalServerError")
        case OverloadedError():
            return RequestError(OVERLOADED, status=503, kind="ServiceUnavailableError")
        case NoMemoryError():
            return RequestError(f"The model ran {error}.", status=507, kind="out_of_memory")
    raise error


def _request_id(request: web.Request) -> str:
    return request.headers.get("X-Request-Id") or uuid.uuid4().hex


def _encoded(vector: Sequence[float], encoding: str) -> Sequence[float] | str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if encoding == "base64" else vector


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type=_JSON)
