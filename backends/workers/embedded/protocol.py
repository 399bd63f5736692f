"""What requests may say, and how they are refused: vLLM 0.32's fields, checks and wordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import SystemRandom
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError

from backends.workers.embedded.sampling import SamplingParams

_SEED = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
_MAX_CHOICES, _MAX_LOGPROBS, _SHOWN_INPUT = 64, 20, 200


class RequestError(Exception):
    """The request is refused; `body` is the answer."""

    def __init__(
        self, message: str, param: str | None = None, *, status: int = 400, kind: str = "BadRequestError"
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(message, kind, status, param)


def error_body(message: str, kind: str, code: int, param: str | None = None) -> bytes:
    """An error in vLLM's shape."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def bad_value(message: str, param: str, value: object) -> RequestError:
    """A refusal that names the parameter and its value, as vLLM's VLLMValidationError does."""
    return RequestError(f"{message} (parameter={param}, value={value})", param)


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore")

    model: str | None = None


class StreamOptions(BaseModel):
    include_usage: bool = True
    continuous_usage_stats: bool = False


class _GenerationRequest(_Request):
    max_tokens: int | None = None
    n: int | None = 1
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: _SEED | None = None
    presence_penalty: float | None = 0.0
    frequency_penalty: float | None = 0.0
    repetition_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None
    response_format: dict[str, Any] | None = None

    @property
    def choices(self) -> int:
        return 1 if self.n is None else self.n

    def sampling(
        self, max_tokens: int, logprobs: int | None, defaults: Mapping[str, float] = MappingProxyType({})
    ) -> SamplingParams:
        """The checked parameters; `defaults` are the model's own for what the request does not say.

        Raises RequestError.
        """
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        params = SamplingParams(
            max_tokens=max_tokens,
            temperature=_or(self.temperature, defaults.get("temperature", 1.0)),
            top_p=_or(self.top_p, defaults.get("top_p", 1.0)),
            top_k=0 if self.top_k == -1 else _or(self.top_k, int(defaults.get("top_k", 0))),
            min_p=_or(self.min_p, defaults.get("min_p", 0.0)),
            seed=SystemRandom().getrandbits(63) if self.seed is None else self.seed,
            presence_penalty=_or(self.presence_penalty, 0.0),
            frequency_penalty=_or(self.frequency_penalty, 0.0),
            repetition_penalty=_or(self.repetition_penalty, defaults.get("repetition_penalty", 1.0)),
            logit_bias=self.logit_bias or {},
            min_tokens=self.min_tokens,
            ignore_eos=self.ignore_eos,
            stop=stops,
            stop_token_ids=self.stop_token_ids or (),
            include_stop_str_in_output=self.include_stop_str_in_output,
            logprobs=logprobs,
        )
        _check_sampling(params, self.choices)
        if self.stream_options and not self.stream:
            raise RequestError("Stream options can only be defined when `stream=True`.", "stream_options")
        if (self.response_format or {}).get("type", "text") != "text":
            raise RequestError("Structured outputs are not supported by this model.", "response_format")
        return params


class ChatMessage(BaseModel):
    """`content` is text, a list of parts, or nothing."""

    role: str
    content: str | list[dict[str, Any]] | None = None

    def as_text(self) -> dict[str, str]:
        """The message with its text parts joined. Raises RequestError for any other part."""
        if not isinstance(self.content, list):
            return {"role": self.role, "content": self.content or ""}
        texts = []
        for part in self.content:
            kind = part.get("type", "text")
            if kind not in ("text", "input_text"):
                raise RequestError(f"At most 0 {str(kind).removesuffix('_url')}(s) may be provided in one prompt.")
            texts.append(str(part.get("text", "")))
        return {"role": self.role, "content": "\n".join(texts)}


class ChatRequest(_GenerationRequest):
    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = 0
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None

    def alternatives(self) -> int | None:
        """How many alternatives to each token are wanted; None for no log probabilities. Raises RequestError."""
        wanted = self.top_logprobs or 0
        if wanted < 0:
            raise bad_value("`top_logprobs` must be a positive value or -1.", "top_logprobs", wanted)
        if wanted and not self.logprobs:
            raise RequestError("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
        return wanted if self.logprobs else None

    def check_template(self) -> None:
        """Raises RequestError for what the chat template cannot do."""
        if self.continue_final_message and self.add_generation_prompt:
            raise RequestError("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
        if self.tools and self.tool_choice != "none":
            needs = "requires --enable-auto-tool-choice and --tool-call-parser to be set"
            raise RequestError(f'"auto" tool choice {needs}')


class CompletionRequest(_GenerationRequest):
    prompt: list[StrictInt] | list[list[StrictInt]] | str | list[str] | None = None
    max_tokens: int | None = 16
    logprobs: int | None = None
    add_special_tokens: bool = True
    suffix: str | None = None
    echo: bool | None = False

    def prompts(self) -> Sequence[str | Sequence[int]]:
        """The prompts, each a text or token ids. Raises RequestError."""
        if not self.prompt or (isinstance(self.prompt, list) and not all(self.prompt) and 0 not in self.prompt):
            raise RequestError("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
        if self.suffix is not None:
            raise RequestError("suffix is not currently supported")
        if self.echo:
            raise RequestError("echo is not currently supported", "echo")
        if self.logprobs is not None and self.logprobs < 0:
            raise bad_value("`logprobs` must be a positive value.", "logprobs", self.logprobs)
        return texts_or_ids(self.prompt)


class EmbeddingRequest(_Request):
    input: list[StrictInt] | list[list[StrictInt]] | str | list[str]
    encoding_format: str = "float"
    dimensions: int | None = None


class TokenizeRequest(_Request):
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    return_token_strs: bool | None = False


class DetokenizeRequest(_Request):
    tokens: list[int]


_R = TypeVar("_R", bound=_Request)


def parse(kind: type[_R], body: bytes, served: Sequence[str]) -> _R:
    """The request in `body`, for one of the `served` model names. Raises RequestError."""
    try:
        request = kind.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        detail = {"type": "json_invalid", "loc": f"body.{error.pos}", "msg": "JSON decode error"}
        raise _invalid([detail | {"input": {}, "ctx": {"error": error.msg}}]) from None
    except ValidationError as error:
        raise _invalid([_detail(problem) for problem in error.errors(include_url=False)]) from None
    if request.model and request.model not in served:
        message = f"The model `{request.model}` does not exist. Valid aliases: {', '.join(served)}."
        raise RequestError(message, "model", status=404, kind="NotFoundError")
    return request


def texts_or_ids(given: Any) -> Sequence[str | Sequence[int]]:
    """One or several prompts, whichever way they were written, as a list."""
    return [given] if isinstance(given, str) or isinstance(given[0], int) else given


def check_max_tokens(asked: int | None, limit: int, param: str = "max_tokens") -> None:
    """Refuses a number of output tokens that no prompt could leave room for. Raises RequestError."""
    if asked is None:
        return
    if asked > limit:
        message = f"{param}={asked} cannot be greater than max_model_len={limit}. Please request fewer output tokens."
        raise bad_value(message, param, asked)
    if asked < 1:
        raise bad_value(f"max_tokens must be at least 1, got {asked}.", "max_tokens", asked)


def output_budget(prompt_tokens: int, asked: int | None, limit: int) -> int:
    """How many tokens may be generated: `asked`, else what is left of `limit`. Raises RequestError."""
    room = limit - prompt_tokens
    if room < (asked or 1):
        raise _too_long(limit, asked or 0, f"{prompt_tokens} input tokens", "input_tokens", prompt_tokens)
    return asked or room


def check_characters(text_length: int, asked: int | None, limit: int, longest_token: int) -> None:
    """Refuses, before it costs anything, a text that cannot fit however it is tokenised. Raises RequestError."""
    room = max(0, limit - (asked or 0))
    if text_length > room * longest_token:
        bound = f"(more than {room * longest_token} characters, which is the upper bound for {room} input tokens)"
        raise _too_long(limit, asked or 0, f"{text_length} characters {bound}", "input_text", text_length)


def _too_long(limit: int, asked: int, has: str, param: str, value: int) -> RequestError:
    message = f"This model's maximum context length is {limit} tokens. However, you"
    if asked:
        total = f", for a total of at least {value + asked} tokens" if param == "input_tokens" else ""
        has = f"at least {has}" if param == "input_tokens" else has
        message += f" requested {asked} output tokens and your prompt contains {has}{total}. Please reduce the length "
        message += "of the input prompt or the number of requested output tokens."
    else:
        verb = "r request has" if param == "input_tokens" else "r prompt contains"
        message += f"{verb} {has}. Please reduce the length of the input prompt."
    return bad_value(message, param, value)


def _check_sampling(params: SamplingParams, n: int) -> None:
    """vLLM's own checks, in its words; those without a parameter name have none there either."""
    if n < 1:
        raise RequestError(f"n must be at least 1, got {n}.")
    if n > _MAX_CHOICES:
        raise RequestError(f"n must be at most {_MAX_CHOICES}, got {n}.")
    for name, value in (("presence_penalty", params.presence_penalty), ("frequency_penalty", params.frequency_penalty)):
        if not -2 <= value <= 2:
            raise RequestError(f"{name} must be in [-2, 2], got {value}.")
    if not params.repetition_penalty > 0:
        raise RequestError(f"repetition_penalty must be greater than zero, got {params.repetition_penalty}.")
    if not 0 <= params.temperature < float("inf"):
        raise bad_value(
            f"temperature must be non-negative, got {params.temperature}.", "temperature", params.temperature
        )
    if not 0 < params.top_p <= 1:
        raise bad_value(f"top_p must be in (0, 1], got {params.top_p}.", "top_p", params.top_p)
    if params.top_k < 0:
        raise RequestError(f"top_k must be 0 (disable), or at least 1, got {params.top_k}.")
    if not 0 <= params.min_p <= 1:
        raise RequestError(f"min_p must be in [0, 1], got {params.min_p}.")
    if params.min_tokens < 0:
        raise RequestError(f"min_tokens must be greater than or equal to 0, got {params.min_tokens}.")
    if params.min_tokens > params.max_tokens:
        bound = f"max_tokens={params.max_tokens}, got {params.min_tokens}."
        raise RequestError(f"min_tokens must be less than or equal to {bound}")
    if params.logprobs is not None and params.logprobs > _MAX_LOGPROBS:
        message = f"Requested sample logprobs of {params.logprobs}, which is greater than max allowed: {_MAX_LOGPROBS}"
        raise bad_value(message, "logprobs", params.logprobs)
    if not all(params.stop):
        raise RequestError("stop cannot contain an empty string.")
    if n > 1 and params.temperature == 0:
        raise RequestError(f"n must be 1 when using greedy sampling, got {n}.")


def _invalid(problems: Sequence[Mapping[str, Any]]) -> RequestError:
    noun = "validation error" if len(problems) == 1 else "validation errors"
    lines = "".join(f"\n  {problem}" for problem in problems)
    return RequestError(f"{len(problems)} {noun}:{lines}", problems[0]["loc"], kind="Bad Request")


def _detail(problem: Mapping[str, Any]) -> dict[str, Any]:
    given = problem.get("input")
    shown = given if len(repr(given)) <= _SHOWN_INPUT else repr(given)[:_SHOWN_INPUT] + "…"
    where = ".".join(["body", *map(str, problem["loc"])])
    return {"type": problem["type"], "loc": where, "msg": problem["msg"], "input": shown}


_V = TypeVar("_V", int, float)


def _or(value: _V | None, default: _V) -> _V:
    return default if value is None else value
