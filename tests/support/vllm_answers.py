"""What vLLM 0.32 answers, to the byte, with the counting model behind it. No I/O.

`VllmModel.answer(request)` gives a `Reply` (a whole body) or a `StreamReply` (server-sent frames, one per chunk).
"""

from __future__ import annotations

import base64
import json
import struct
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from tests.support.counting_model import Step, chat_prompt, detokenize, generate, tokenize
from tests.support.faults import error_body
from tests.support.vllm_frames import DONE, Frame, StreamReply
from tests.support.vllm_typed import MESSAGES_DEATH, MessageShape, ResponseShape

FINGERPRINT = "vllm-0.32.0-a84c2804"


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer; `tokens` is how many the model generated for it (they take time)."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    tokens: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


class BadRequestError(Exception):
    """The request is refused with `reply`."""

    def __init__(self, message: str, param: str | None, *, status: int = 400, kind: str = "BadRequestError"):
        super().__init__(message)
        self.reply = Reply(error_body(message, kind, status, param), status)


@dataclass(slots=True)
class VllmModel:
    """A served model: `name`, `max_model_len` tokens, answers of `length` tokens unless cut by max_tokens."""

    name: str = "tiny"
    max_model_len: int = 4096
    length: int = 64

    def answer(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, *, tokens_per_frame: int = 1
    ) -> Reply | StreamReply:
        """Answers as vLLM's API server does; whatever is wrong with the request is an answer too."""
        if (method, path) == ("GET", "/v1/models"):
            return _json(self._models())
        handler = _HANDLERS.get(path)
        if handler is None:
            return Reply(b'{"detail":"Not Found"}', 404)
        if method != "POST":
            return Reply(b'{"detail":"Method Not Allowed"}', 405)
        try:
            if path.startswith(("/v1/images/edits", "/v1/images/variations", "/v1/audio/trans")):
                return handler(self, {}, "", 1)  # multipart: not read
            request = self._checked(body)
            return handler(self, request, headers.get("x-request-id", f"{zlib.crc32(body):032x}"), tokens_per_frame)
        except BadRequestError as refused:
            return refused.reply
        except (ArithmeticError, LookupError, TypeError, ValueError):  # the real server's schemas refuse these
            return BadRequestError("1 validation error: a field has the wrong type", None, kind="Bad Request").reply

    def _models(self) -> dict[str, Any]:
        entry = {"id": self.name, "object": "model", "created": int(time.time()), "owned_by": "vllm"}
        entry |= {"root": self.name, "parent": None, "max_model_len": self.max_model_len, "permission": []}
        return {"object": "list", "data": [entry]}

    def _checked(self, body: bytes) -> dict[str, Any]:
        try:
            request = json.loads(body)
        except ValueError as error:
            message = f"1 validation error:\n  {{'type': 'json_invalid', 'loc': 'body', 'msg': '{error}'}}"
            raise BadRequestError(message, "body", kind="Bad Request") from None
        if not isinstance(request, dict):
            raise BadRequestError("1 validation error:\n  {'type': 'dict_type'}", "body", kind="Bad Request")
        model = request.get("model", self.name)
        if model != self.name:
            message = f"The model `{model}` does not exist. Valid aliases: {self.name}."
            raise BadRequestError(message, "model", status=404, kind="NotFoundError")
        temperature = request.get("temperature")
        if isinstance(temperature, (int, float)) and temperature < 0:
            message = f"temperature must be non-negative, got {temperature}. "
            message += f"(parameter=temperature, value={temperature})"
            raise BadRequestError(message, "temperature")
        return request

    def _chat(self, request: dict[str, Any], request_id: str, per_frame: int) -> Reply | StreamReply:
        messages = _required(request, "messages", list)
        prompt = chat_prompt(messages, open_answer=not request.get("continue_final_message", False))
        return self._generated(request, prompt, _Shape(f"chatcmpl-{request_id}", self.name, request, True), per_frame)

    def _completion(self, request: dict[str, Any], request_id: str, per_frame: int) -> Reply | StreamReply:
        given = _required(request, "prompt", (str, list))
        prompt = tokenize(given) if isinstance(given, str) else given
        if not all(isinstance(i, int) for i in prompt):
            raise BadRequestError("only one prompt is supported here", "prompt")
        return self._generated(request, prompt, _Shape(f"cmpl-{request_id}", self.name, request, False), per_frame)

    def _messages(self, request: dict[str, Any], request_id: str, per_frame: int) -> Reply | StreamReply:
        messages = _required(request, "messages", list)
        _required(request, "max_tokens", int)
        asked = request | {"max_completion_tokens": request["max_tokens"], "stop": request.get("stop_sequences")}
        system = [{"role": "system", "content": request["system"]}] if request.get("system") else []
        shape = MessageShape(f"chatcmpl-{request_id}", self.name)
        try:
            return self._generated(asked, chat_prompt([*system, *messages]), shape, per_frame)
        except BadRequestError as refused:
            said = json.loads(refused.reply.body)["error"]
            error = {"type": said["type"], "message": said["message"]}
            return Reply(_dumps({"type": "error", "error": error}), refused.reply.status)

    def _responses(self, request: dict[str, Any], request_id: str, per_frame: int) -> Reply | StreamReply:
        given = _required(request, "input", (str, list))
        messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
        asked = request | {"max_tokens": request.get("max_output_tokens")}
        shape = ResponseShape(request, self.name, uuid.uuid4().hex)
        return self._generated(asked, chat_prompt(messages), shape, per_frame)

    def _generated(
        self, request: dict[str, Any], prompt: list[int], shape: _Shape | MessageShape | ResponseShape, per_frame: int
    ) -> Reply | StreamReply:
        short = isinstance(shape, _Shape) and not shape.chat and "max_tokens" not in request
        budget = self._token_budget(request, prompt, default=16 if short else None)
        stop = request.get("stop") or []
        stops = [stop] if isinstance(stop, str) else stop
        steps = generate(
            prompt,
            max_tokens=budget,
            length=self.length,
            stop=stops,
            keep_stop=bool(request.get("include_stop_str_in_output")),
            min_tokens=int(request.get("min_tokens") or 0),
        )
        if request.get("stream"):
            frames = shape.frames(prompt, steps, per_frame)
            if isinstance(shape, ResponseShape):
                return StreamReply(frames, death=None)
            return StreamReply(frames, MESSAGES_DEATH) if isinstance(shape, MessageShape) else StreamReply(frames)
        made = list(steps)
        return _json(shape.whole(prompt, made), tokens=len(made))

    def _token_budget(self, request: dict[str, Any], prompt: list[int], default: int | None) -> int:
        limit = self.max_model_len
        if len(prompt) > limit:
            message = f"This model's maximum context length is {limit} tokens. However, your request has {len(prompt)} "
            message += "input tokens. Please reduce the length of the input prompt. "
            raise BadRequestError(f"{message}(parameter=input_tokens, value={len(prompt)})", "input_tokens")
        asked = request.get("max_completion_tokens") or request.get("max_tokens")
        if asked is not None and asked > limit:
            message = f"max_tokens={asked} cannot be greater than max_model_len={limit}. "
            message += f"Please request fewer output tokens. (parameter=max_tokens, value={asked})"
            raise BadRequestError(message, "max_tokens")
        return int(asked or default or limit - len(prompt))

    def _embeddings(self, request: dict[str, Any], request_id: str, _: int) -> Reply:
        given = _required(request, "input", (str, list))
        inputs = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
        if not all(isinstance(one, str | list) for one in inputs):
            raise BadRequestError("1 validation error: input must be text or token ids", "input")
        prompts = [tokenize(one) if isinstance(one, str) else one for one in inputs]
        data = [
            {"index": i, "object": "embedding", "embedding": _vector(ids, request.get("encoding_format"))}
            for i, ids in enumerate(prompts)
        ]
        total = sum(map(len, prompts))
        usage = {"prompt_tokens": total, "total_tokens": total, "completion_tokens": 0, "prompt_tokens_details": None}
        answer = {"id": f"embd-{request_id}", "object": "list", "created": int(time.time()), "model": self.name}
        return _json(answer | {"data": data, "usage": usage})

    def _tokenize(self, request: dict[str, Any], request_id: str, _: int) -> Reply:
        ids = tokenize(request["prompt"]) if "prompt" in request else chat_prompt(_required(request, "messages", list))
        answer = {"count": len(ids), "max_model_len": self.max_model_len, "tokens": ids, "token_strs": None}
        return _json(answer)

    def _detokenize(self, request: dict[str, Any], request_id: str, _: int) -> Reply:
        return _json({"prompt": detokenize(_required(request, "tokens", list))})

    def _images(self, request: dict[str, Any], request_id: str, _: int) -> Reply:
        width, height = map(int, str(request.get("size") or "16x16").split("x"))
        seed = zlib.crc32(f"{request.get('prompt')}:{request.get('seed')}".encode())
        image = base64.b64encode(png(width, height, seed)).decode()
        return _json({"created": int(time.time()), "data": [{"b64_json": image}] * int(request.get("n") or 1)})

    def _speech(self, request: dict[str, Any], request_id: str, _: int) -> Reply:
        _required(request, "input", str)
        return Reply(AUDIO, content_type="audio/wav")

    def _transcription(self, request: dict[str, Any], request_id: str, _: int) -> Reply:
        return _json({"text": "1 2 3", "usage": {"type": "duration", "seconds": 1}})


_HANDLERS = {
    "/v1/chat/completions": VllmModel._chat,
    "/v1/completions": VllmModel._completion,
    "/v1/messages": VllmModel._messages,
    "/v1/responses": VllmModel._responses,
    "/v1/embeddings": VllmModel._embeddings,
    "/v1/images/generations": VllmModel._images,
    "/v1/images/edits": VllmModel._images,
    "/v1/images/variations": VllmModel._images,
    "/v1/audio/speech": VllmModel._speech,
    "/v1/audio/transcriptions": VllmModel._transcription,
    "/v1/audio/translations": VllmModel._transcription,
    "/tokenize": VllmModel._tokenize,
    "/detokenize": VllmModel._detokenize,
}

#: Bytes of every speech answer: all 256 values, so that a relay which decodes text is caught.
AUDIO = b"RIFF\x24\x04\x00\x00WAVE" + bytes(range(256)) * 4


@dataclass(slots=True)
class _Shape:
    """The JSON of one generated answer, chat or completion, unary or stream."""

    answer_id: str
    model: str
    request: Mapping[str, Any]
    chat: bool
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def _with_ids(self) -> bool:
        return bool(self.request.get("return_token_ids"))

    def whole(self, prompt: list[int], steps: list[Step]) -> dict[str, Any]:
        text = "".join(step.text for step in steps)
        last = steps[-1]
        ids = {"token_ids": [step.token_id for step in steps] if self._with_ids else None}
        ended = {"logprobs": None, "finish_reason": last.finish_reason, "stop_reason": last.stop_reason}
        if self.chat:
            message: dict[str, Any] = {
                "role": "assistant",
                "content": text,
                "refusal": None,
                "tool_calls": [],
                "reasoning": None,
            }
            choice: dict[str, Any] = {"message": message} | ended | ids
        else:
            choice = {"text": text} | ended | ids | {"prompt_token_ids": prompt if self._with_ids else None}
        choices = [{"index": index} | choice for index in self._indices()]
        answer = self._envelope(choices, "chat.completion") | {"system_fingerprint": FINGERPRINT}
        answer["usage"] = self._usage(len(prompt), len(steps) * len(choices))
        if self.chat:
            answer["prompt_token_ids"] = prompt if self._with_ids else None
        return answer

    def frames(self, prompt: list[int], steps: Iterator[Step], per_frame: int) -> Iterator[Frame]:
        options = self.request.get("stream_options") or {}
        continuous = bool(options.get("continuous_usage_stats"))
        indices, made, first = self._indices(), 0, True
        if self.chat:
            for index in indices:
                delta = {"role": "assistant", "content": ""}
                choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
                ids = {"prompt_token_ids": prompt, "prompt_text": None} if self._with_ids else {}
                yield self._frame([choice], self._counted(continuous, len(prompt), 0) | ids)
        while batch := list(islice(steps, per_frame)):
            made += len(batch)
            for index in indices:
                extra = {"prompt_token_ids": prompt} if first and self._with_ids and not self.chat else {}
                usage = self._counted(continuous, len(prompt), made)
                yield self._frame([self._delta(index, batch) | extra], usage, batch)
            first = False
        if options.get("include_usage"):
            usage = {"usage": self._usage(len(prompt), made * len(indices)), "system_fingerprint": FINGERPRINT}
            yield self._frame([], usage)
        yield Frame(DONE)

    def _delta(self, index: int, batch: list[Step]) -> dict[str, Any]:
        text, last = "".join(step.text for step in batch), batch[-1]
        choice: dict[str, Any] = {"index": index}
        choice |= {"delta": {"content": text}} if self.chat else {"text": text}
        choice |= {"logprobs": None, "finish_reason": last.finish_reason}
        if last.finish_reason or not self.chat:
            choice["stop_reason"] = last.stop_reason
        if self._with_ids:
            choice["token_ids"] = [step.token_id for step in batch]
        return choice

    def _frame(self, choices: list[dict[str, Any]], extra: dict[str, Any], batch: list[Step] | None = None) -> Frame:
        event = self._envelope(choices, "chat.completion.chunk") | extra
        data = b"data: " + _dumps(event) + b"\n\n"
        first_choice = bool(choices) and choices[0]["index"] == 0
        tokens = len(batch) if batch and first_choice else 0
        return Frame(data, tokens, finish=bool(batch and batch[-1].finish_reason))

    def _envelope(self, choices: list[dict[str, Any]], chat_object: str) -> dict[str, Any]:
        kind = chat_object if self.chat else "text_completion"
        head = {"id": self.answer_id, "object": kind, "created": self.created}
        return head | {"model": self.model, "choices": choices}

    def _indices(self) -> range:
        return range(int(self.request.get("n") or 1))

    def _counted(self, continuous: bool, prompt: int, made: int) -> dict[str, Any]:
        return {"usage": self._usage(prompt, made)} if continuous else {}

    @staticmethod
    def _usage(prompt: int, made: int) -> dict[str, int]:
        return {"prompt_tokens": prompt, "total_tokens": prompt + made, "completion_tokens": made}


def png(width: int, height: int, seed: int = 0) -> bytes:
    """A valid one-colour RGB image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + seed.to_bytes(4, "big")[:3] * width
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(row * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _vector(ids: list[int], encoding: str | None) -> list[float] | str:
    values = [((sum(ids) * (axis + 3)) % 257) / 256 for axis in range(8)]
    if encoding == "base64":
        return base64.b64encode(struct.pack("<8f", *values)).decode()
    return values


def _required(request: Mapping[str, Any], name: str, kinds: type | tuple[type, ...]) -> Any:
    value = request.get(name)
    if not isinstance(value, kinds):
        detail = f"{{'type': 'missing', 'loc': 'body.{name}', 'msg': 'Field required'}}"
        raise BadRequestError(f"1 validation error:\n  {detail}", f"body.{name}", kind="Bad Request")
    return value


def _json(value: Any, tokens: int = 0) -> Reply:
    return Reply(_dumps(value), tokens=tokens)


def _dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
