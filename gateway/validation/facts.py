"""What the gateway knows of a request's body, and the limits a policy sets on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

from gateway.validation.errors import Location, wrong_fields
from gateway.validation.schemas import SIZE, UNKNOWN, Endpoint

_CHARS_PER_TOKEN = 4
_MAX_REWRITES = 16  # one request is sent under few names; more would only hold memory


@dataclass(frozen=True, slots=True)
class Limits:
    """A policy's `limits`; None is no limit. Characters are Unicode code points, pixels those of one image."""

    max_input_chars: int | None
    max_tokens: int | None
    max_pixels: int | None
    max_steps: int | None


class Facts:
    """A body that was checked; on its own one that nothing is known of and that goes on as it came.

    `model` is None where the client named none. `max_tokens` is the bound on one answer's tokens and
    `max_tokens_field` the body's field that sets it; `most_tokens` is the highest of all such fields, 0 without any.
    `body` is what to send: the client's own object unless something
    had to be taken out of it.
    """

    __slots__ = ("body", "endpoint", "max_tokens", "max_tokens_field", "model", "most_tokens", "n", "stream")

    def __init__(self, body: bytes, endpoint: Endpoint = UNKNOWN) -> None:
        self.body = body
        self.endpoint = endpoint
        self.model: str | None = None
        self.stream = False
        self.max_tokens: int | None = None
        self.max_tokens_field: str | None = None
        self.most_tokens = 0
        self.n = 1

    def field(self, name: str) -> Any:
        """The body's top-level field as validated, None where it is missing."""
        return None

    def with_fields(self, changes: Mapping[str, Any], remove: Collection[str] = ()) -> bytes:
        """The body with these top-level fields set and those removed; the same bytes where it has no fields."""
        return self.body

    def with_model(self, name: str) -> bytes:
        """The body with another model named."""
        return self.body if name == self.model else self.with_fields({"model": name})

    @property
    def input_chars(self) -> int:
        """Characters of text for the model; a token id counts as four. Never more than twice the body's bytes."""
        return 0

    @property
    def temperature(self) -> float | None:
        value = self.field("temperature")
        return value if isinstance(value, float) else None

    @property
    def seed(self) -> int | None:
        value = self.field("seed")
        return value if isinstance(value, int) else None

    @property
    def choices(self) -> int:
        """How many the answer has, which end one by one: `n` for each prompt."""
        prompt = self.field("prompt")
        prompts = len(prompt) if isinstance(prompt, list) and prompt and type(prompt[0]) is not int else 1
        return self.n * prompts

    @property
    def steps(self) -> int | None:
        """Denoising steps asked of an image model."""
        value = self.field("num_inference_steps") or self.field("steps")
        return value if isinstance(value, int) else None

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(width, height) asked of an image model, in pixels; one side alone is taken as a square's."""
        width, height = self.field("width"), self.field("height")
        if isinstance(width, int) or isinstance(height, int):
            return int(width or height), int(height or width)
        size = self.field("size")
        match = SIZE.fullmatch(size) if isinstance(size, str) else None
        return (int(match[1]), int(match[2])) if match else None

    @property
    def uploaded_images(self) -> Sequence[tuple[str, tuple[int, int]]]:
        """(field, (width, height)) of the images in the body, in pixels."""
        return ()

    def prefix(self, limit: int = 1024) -> bytes:
        """The first bytes of what the model reads, equal for requests that can share a prefix cache, as the turns of a
        conversation can."""
        return b""


class JsonFacts(Facts):
    """Facts of a JSON body.

    `document` is the whole body as parsed, to be read only; `fields` those that the schema knows, as validated.
    """

    __slots__ = ("_input_chars", "_rewrites", "document", "fields")

    def __init__(self, body: bytes, endpoint: Endpoint, document: dict[str, Any], fields: dict[str, Any]) -> None:
        self.body = body
        self.endpoint = endpoint
        self.document = document
        self.fields = get = fields
        self._input_chars = -1
        self._rewrites: dict[tuple[bytes, tuple[str, ...]], bytes] | None = None
        self.model = get.get("model")
        self.stream = get.get("stream") is True
        self.n = get.get("n") or 1
        self.max_tokens = self.max_tokens_field = None
        self.most_tokens = 0
        for name in endpoint.token_limits:
            value = get.get(name)
            if value is not None:
                if self.max_tokens is None:
                    self.max_tokens, self.max_tokens_field = value, name
                if value > self.most_tokens:
                    self.most_tokens = value

    def field(self, name: str) -> Any:
        value = self.fields.get(name)
        return self.document.get(name) if value is None else value

    def with_fields(self, changes: Mapping[str, Any], remove: Collection[str] = ()) -> bytes:
        key = (orjson.dumps(changes), tuple(remove))
        if self._rewrites is None:
            self._rewrites = {}
        body = self._rewrites.get(key)
        if body is None:
            body = orjson.dumps(self._changed(changes, remove))
            if len(self._rewrites) < _MAX_REWRITES:
                self._rewrites[key] = body
        return body

    def _changed(self, changes: Mapping[str, Any], remove: Collection[str]) -> dict[str, Any]:
        document = self.document.copy()
        nested = document.get("parameters")  # TGI's body; a field that is only there is changed there
        if isinstance(nested, dict):
            inner = {name: changes[name] for name in changes if name in nested and name not in document}
            changes = {name: changes[name] for name in changes if name not in inner}
            document["parameters"] = {k: v for k, v in (nested | inner).items() if k not in remove}
        document.update(changes)
        for name in remove:
            document.pop(name, None)
        return document

    @property
    def input_chars(self) -> int:
        if self._input_chars < 0:
            self._input_chars = sum(_chars(self.document.get(name)) for name in self.endpoint.text)
        return self._input_chars

    def prefix(self, limit: int = 1024) -> bytes:
        """System prompt and messages up to the user's first, or the prompt's text or token ids, as bytes."""
        parts: list[str] = []
        for name in ("system", *self.endpoint.text):
            _collect(_opening(self.document.get(name)), limit, parts)
            if sum(map(len, parts)) >= limit:
                break
        return "\n".join(parts).encode()[:limit]


def _chars(value: Any) -> int:
    """Characters of a prompt, or of the messages, items and parts in it."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        if value and type(value[0]) is int:
            return _CHARS_PER_TOKEN * len(value)
        return sum(map(_chars, value))
    if isinstance(value, dict):
        return _chars(value.get("content")) + _chars(value.get("text"))
    return 0


def _opening(value: Any) -> Any:
    """Of a conversation's messages those that stay its first as it grows: else each turn would have another prefix."""
    if not isinstance(value, list) or not value or type(value[0]) is int:
        return value
    turns = (place for place, item in enumerate(value, 1) if isinstance(item, dict) and item.get("role") == "user")
    return value[: next(turns, len(value))]


def _collect(value: Any, limit: int, parts: list[str]) -> None:
    """Adds to `parts` the strings of a prompt in reading order until they hold `limit` characters."""
    if isinstance(value, str):
        parts.append(value[:limit])
    elif isinstance(value, dict):
        for name in ("role", "content", "text"):
            _collect(value.get(name), limit, parts)
    elif isinstance(value, list) and value:
        if type(value[0]) is int:
            parts.append(",".join(map(str, islice(value, limit))))
            return
        for item in islice(value, limit):
            _collect(item, limit, parts)
            if sum(map(len, parts)) >= limit:
                return


def check_limits(facts: Facts, limits: Limits) -> None:
    """Raises InvalidRequest, naming the field and both numbers, for what is over a limit."""
    problems: list[tuple[Location, str]] = []
    chars = limits.max_input_chars
    # A body's characters are at most twice its bytes (token ids; text has at most one a byte): seldom worth counting.
    if chars is not None and 2 * len(facts.body) > chars and facts.input_chars > chars:
        name = next((n for n in facts.endpoint.text if facts.field(n) is not None), "body")
        problems.append(((name,), f"must be at most {chars} characters long; it is {facts.input_chars}"))
    if limits.max_tokens is not None and facts.most_tokens > limits.max_tokens:
        problems += _over(facts, facts.endpoint.token_limits, limits.max_tokens)
    if facts.endpoint.images:
        problems += _image_problems(facts, limits)
    if problems:
        raise wrong_fields(problems)


def _over(facts: Facts, names: tuple[str, ...], limit: int) -> list[tuple[Location, str]]:
    problems: list[tuple[Location, str]] = []
    for name in names:
        value = facts.field(name)
        if isinstance(value, int) and value > limit:
            problems.append(((name,), f"must be at most {limit}"))
    return problems


def _image_problems(facts: Facts, limits: Limits) -> list[tuple[Location, str]]:
    problems: list[tuple[Location, str]] = []
    if limits.max_steps is not None:
        problems += _over(facts, ("num_inference_steps", "steps"), limits.max_steps)
    size = facts.image_size
    sizes = list(facts.uploaded_images)
    if size is not None:
        sizes.append(("size" if facts.field("width") is None and facts.field("height") is None else "width", size))
    for name, (width, height) in sizes:
        if limits.max_pixels is not None and width * height > limits.max_pixels:
            text = f"must be at most {limits.max_pixels} pixels (width x height); it is {width}x{height}"
            problems.append(((name,), text))
    return problems
