"""What each endpoint accepts: the one schema truth, in pydantic.

Permissive on purpose. Fields not named here are let through and forwarded as they came, so that a server's own
parameters work; a named field is refused only where no server takes the value. Numbers in strings are taken where
pydantic, and so vLLM and SGLang, takes them. TypedDicts, because they validate in half the time of models.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Required

from pydantic import AfterValidator, Field, Tag, TypeAdapter
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from gateway.validation import media
from gateway.validation.errors import UNION

#: Width and height of an image. Beside it OpenAI's API has words, such as auto.
SIZE = re.compile(r"\s*(\d+)\s*[xX*]\s*(\d+)\s*", re.ASCII)
_INT64 = 2**63 - 1
#: Characters of a model's name, which goes into headers and log lines.
MAX_MODEL = 256


def _printable(name: str) -> str:
    if not name.isprintable():
        raise PydanticCustomError("model_name", "must not contain control characters")
    return name


def _not_blank(text: str) -> str:
    if text and not text.strip():
        raise PydanticCustomError("blank", "must not be empty: it holds only white space")
    return text


def _size(size: str) -> str:
    if (sides := SIZE.fullmatch(size)) and not all(map(int, sides.groups())):
        raise PydanticCustomError("size", "must be at least 1x1")
    return size


def _sides(size: str) -> str:
    if not SIZE.fullmatch(size):
        raise PydanticCustomError("size", "must be a width and a height, such as 512x512")
    return size


def _image_url(url: str) -> str:
    if url[:5].lower() == "data:":
        problem = media.data_url_problem(url)
        if problem is not None:
            raise PydanticCustomError("image", "{problem}", {"problem": problem})
    return url


def _input_audio(audio: dict[str, Any]) -> dict[str, Any]:
    problem = media.audio_problem(audio.get("data"), audio.get("format"))
    if problem is not None:
        raise PydanticCustomError("audio", "{problem}", {"problem": problem})
    return audio


def _image_source(source: dict[str, Any]) -> dict[str, Any]:
    if source.get("type") == "base64" and str(source.get("media_type", "")).startswith("image/"):
        problem = media.base64_image_problem(source.get("data"), source["media_type"])
        if problem is not None:
            raise PydanticCustomError("image", "{problem}", {"problem": problem})
    return source


# A list of a million wrong items must not become a million errors.
_FAIL_FAST = Field(fail_fast=True)

Model = Annotated[str, Field(min_length=1, max_length=MAX_MODEL), AfterValidator(_printable)]
AtLeast0 = Annotated[int, Field(ge=0, le=_INT64)]
AtLeast1 = Annotated[int, Field(ge=1, le=_INT64)]
Integer = Annotated[int, Field(ge=-_INT64 - 1, le=_INT64)]
Copies = Annotated[int, Field(ge=1, le=128)]
Number = Annotated[float, Field(allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
NotEmpty = Annotated[str, Field(min_length=1)]
NotBlank = Annotated[NotEmpty, AfterValidator(_not_blank)]
Object = dict[str, Any]
Objects = Annotated[list[Object], _FAIL_FAST]
Strings = Annotated[list[str], _FAIL_FAST]

_String = Annotated[str, Tag(UNION + "a string")]
_Strings = Annotated[list[str], _FAIL_FAST, Tag(UNION + "a list of strings")]
_Ids = Annotated[list[int], _FAIL_FAST, Tag(UNION + "a list of token ids")]
_IdLists = Annotated[list[Annotated[list[int], _FAIL_FAST]], _FAIL_FAST, Tag(UNION + "a list of lists of token ids")]
_Object = Annotated[Object, Tag(UNION + "an object")]
_Bool = Annotated[bool, Tag(UNION + "true or false")]
_Objects = Annotated[list[_Object | _String], _FAIL_FAST, Tag(UNION + "a list of objects")]

StringOrStrings = _String | _Strings
StringOrObject = _String | _Object
Prompt = Annotated[_String | _Strings | _Ids | _IdLists, Field(union_mode="left_to_right")]


class ImageUrl(TypedDict, total=False):
    url: Required[Annotated[str, AfterValidator(_image_url)]]


class Part(TypedDict, total=False):
    """A content part of any dialect: OpenAI's chat and responses, Anthropic's, vLLM's short forms."""

    type: str
    text: str | None
    image_url: (
        Annotated[str, AfterValidator(_image_url), Tag(UNION + "a string")]
        | Annotated[ImageUrl, Tag(UNION + "an object")]
        | None
    )
    input_audio: Annotated[Object, AfterValidator(_input_audio)] | None
    source: Annotated[Object, AfterValidator(_image_source)] | None


Parts = Annotated[
    list[_String | Annotated[Part, Tag(UNION + "an object")]], _FAIL_FAST, Tag(UNION + "a list of content parts")
]
Content = _String | Parts


class Message(TypedDict, total=False):
    role: Required[NotEmpty]
    content: Content | None  # null beside tool_calls
    tool_calls: Objects | None
    tool_call_id: str | None
    name: str | None


class Item(TypedDict, total=False):
    """An input item of /v1/responses: a message, or one of many other types told by `type`."""

    type: str
    role: str
    content: Content | None


Messages = Annotated[list[Message], Field(min_length=1), _FAIL_FAST]


class Named(TypedDict):
    model: Model


class Sampling(TypedDict, total=False):
    n: Copies | None
    stream: bool | None
    stream_options: Object | None
    temperature: NotNegative | None
    top_p: Probability | None  # 0 is greedy with OpenAI and llama.cpp; vLLM refuses it itself
    seed: Integer | None
    stop: StringOrStrings | None
    presence_penalty: Number | None
    frequency_penalty: Number | None
    repetition_penalty: NotNegative | None
    user: str | None


class Chat(Named, Sampling, total=False):
    messages: Required[Messages]
    max_tokens: AtLeast1 | None
    max_completion_tokens: AtLeast1 | None
    logprobs: bool | None
    top_logprobs: Integer | None
    tools: Objects | None
    tool_choice: StringOrObject | None
    response_format: Object | None
    logit_bias: Object | None


class Completion(Named, Sampling, total=False):
    prompt: Prompt | None
    max_tokens: AtLeast0 | None  # 0 scores the prompt
    logprobs: Annotated[int, Tag(UNION + "an integer")] | _Bool | None
    echo: bool | None
    suffix: str | None
    best_of: Copies | None
    response_format: Object | None
    logit_bias: Object | None


class Embedding(TypedDict, total=False):
    model: Required[Model]
    input: Annotated[_String | _Strings | _Ids | _IdLists | _Objects, Field(union_mode="left_to_right")] | None
    messages: Messages | None
    dimensions: AtLeast1 | None
    encoding_format: str | None
    user: str | None


class Responses(TypedDict, total=False):
    model: Required[Model]
    input: _String | Annotated[list[Item], _FAIL_FAST, Tag(UNION + "a list of input items")] | None
    instructions: str | None
    max_output_tokens: AtLeast1 | None
    stream: bool | None
    temperature: NotNegative | None
    top_p: Probability | None
    tools: Objects | None
    tool_choice: StringOrObject | None


class AnthropicMessages(TypedDict, total=False):
    model: Required[Model]
    messages: Required[Messages]
    max_tokens: Required[AtLeast1]
    system: Content | None
    stop_sequences: Strings | None
    stream: bool | None
    temperature: NotNegative | None
    top_p: Probability | None
    top_k: Integer | None
    tools: Objects | None
    tool_choice: Object | None


class Rerank(TypedDict, total=False):
    model: Required[Model]
    query: Required[StringOrObject]
    documents: Required[
        Annotated[list[_String | _Object], Field(min_length=1), _FAIL_FAST, Tag(UNION + "a list")] | _Object
    ]
    top_n: Integer | None


_Scored = StringOrStrings | _Objects | _Object


class Score(TypedDict, total=False):
    model: Required[Model]
    text_1: _Scored | None
    text_2: _Scored | None
    queries: _Scored | None
    documents: _Scored | None


class Speech(TypedDict, total=False):
    model: Required[Model]
    input: Required[NotEmpty]
    voice: StringOrObject | None
    instructions: str | None
    response_format: str | None
    speed: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    stream: bool | None


class Picture(TypedDict, total=False):
    """What every way of asking for an image shares; the native names and OpenAI's both work everywhere."""

    model: Model | None
    n: Copies | None
    size: Annotated[str, Field(max_length=32), AfterValidator(_size)] | None
    width: AtLeast1 | None
    height: AtLeast1 | None
    steps: AtLeast1 | None
    num_inference_steps: AtLeast1 | None
    num_images: Copies | None
    seed: Integer | None
    guidance_scale: NotNegative | None
    negative_prompt: str | None
    response_format: str | None
    stream: bool | None


class Image(Picture, total=False):
    prompt: Required[NotEmpty]


class NativeImage(Image, total=False):
    """The native endpoint, whose sizes are numbers only."""

    prompt: Required[NotBlank]
    size: Annotated[str, Field(max_length=32), AfterValidator(_sides), AfterValidator(_size)] | None


class Tokenize(TypedDict, total=False):
    model: Model | None
    prompt: Prompt | None
    messages: Messages | None
    content: str | None  # llama.cpp's name


class Detokenize(TypedDict, total=False):
    model: Model | None
    tokens: Required[Annotated[_Ids | _IdLists, Field(union_mode="left_to_right")]]


class GenerateParameters(Sampling, total=False):
    max_new_tokens: AtLeast1 | None
    max_tokens: AtLeast1 | None


class Generate(Sampling, total=False):
    """The native endpoint; also TGI's (`inputs` and `parameters`)."""

    model: Model | None
    prompt: NotBlank | None
    inputs: NotBlank | None
    max_tokens: AtLeast1 | None
    max_new_tokens: AtLeast1 | None
    parameters: GenerateParameters | None


class Anything(TypedDict, total=False):
    """A path we know nothing of: what routing and relaying read."""

    model: Model | None
    stream: bool | None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How the body of one path is read.

    `names`: the fields its schema knows, of which `validate` returns those that are there.
    `one_of`: at least one of these fields must be there. `text`: the fields that hold text for the model, which is
    counted and sanitised. `token_limits`: the fields that bound the answer's tokens, the decisive one first. `schema`:
    the TypedDict that `validate` is made of.
    """

    validate: Callable[[Any], dict[str, Any]]
    names: frozenset[str]
    one_of: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    token_limits: tuple[str, ...] = ()
    images: bool = False
    schema: Any = None


def endpoint_of(
    schema: Any,
    one_of: tuple[str, ...] = (),
    text: tuple[str, ...] = (),
    token_limits: tuple[str, ...] = (),
    images: bool = False,
) -> Endpoint:
    """The endpoint whose body has this schema, a TypedDict."""
    validator = TypeAdapter(schema).validator
    names = frozenset(schema.__annotations__)
    return Endpoint(validator.validate_python, names, one_of, text, token_limits, images, schema)


UNKNOWN = endpoint_of(Anything)
_RERANK = endpoint_of(Rerank, text=("query", "documents"))
_SCORE = endpoint_of(
    Score,
    one_of=("text_1", "queries", "data_1"),
    text=("text_1", "text_2", "queries", "documents"),
)

#: By path. The unversioned spellings are vLLM's.
JSON_ENDPOINTS = {
    "/v1/chat/completions": endpoint_of(Chat, text=("messages",), token_limits=("max_completion_tokens", "max_tokens")),
    "/v1/completions": endpoint_of(
        Completion, one_of=("prompt", "prompt_embeds"), text=("prompt", "suffix"), token_limits=("max_tokens",)
    ),
    "/v1/embeddings": endpoint_of(Embedding, one_of=("input", "messages"), text=("input", "messages")),
    "/v1/responses": endpoint_of(Responses, text=("input", "instructions"), token_limits=("max_output_tokens",)),
    "/v1/messages": endpoint_of(AnthropicMessages, text=("messages", "system"), token_limits=("max_tokens",)),
    "/v1/rerank": _RERANK,
    "/rerank": _RERANK,
    "/v1/score": _SCORE,
    "/score": _SCORE,
    "/v1/audio/speech": endpoint_of(Speech, text=("input", "instructions")),
    "/v1/images/edits": endpoint_of(Image, text=("prompt", "negative_prompt"), images=True),  # its JSON form
    "/v1/images/generations": endpoint_of(Image, text=("prompt", "negative_prompt"), images=True),
    "/tokenize": endpoint_of(
        Tokenize, one_of=("prompt", "messages", "content"), text=("prompt", "messages", "content")
    ),
    "/detokenize": endpoint_of(Detokenize),
    "/generate": endpoint_of(
        Generate, one_of=("prompt", "inputs"), text=("prompt", "inputs"), token_limits=("max_tokens", "max_new_tokens")
    ),
    "/generate_image": endpoint_of(NativeImage, text=("prompt", "negative_prompt"), images=True),
}
