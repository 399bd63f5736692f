"""What a request for images may say, in OpenAI's fields and diffusers' own, and how it is refused."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import orjson
from PIL import Image
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

MAX_SEED = 2**63 - 1
#: How far an edit goes from its image when the request does not say; as diffusers' own default.
DEFAULT_STRENGTH = 0.8
#: Of an uploaded image. A small file can hold a picture that takes gigabytes.
MAX_SOURCE_PIXELS = 4096 * 4096
_SOURCE_FORMATS = ("PNG", "JPEG", "WEBP")
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


class RequestError(Exception):
    """The request is refused; `body` is the answer, in OpenAI's shape."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        error: dict[str, Any] = {"message": message, "type": kind, "param": param, "code": code}
        if details:
            error["details"] = details
        self.body = orjson.dumps({"error": error})


@dataclass(frozen=True, slots=True)
class SizeRules:
    """Which sizes a pipeline draws, in pixels: its own, and multiples of `multiple` up to `max_pixels` in all."""

    default: tuple[int, int]
    multiple: int
    max_pixels: int
    max_steps: int


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """What to draw, but for the seed. Drawings that differ only in prompts and `source` share a batch.

    `source` is the image that an edit starts from, and `strength` (above 0, to 1) how far it may go from it.
    """

    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance: float | None
    source: Image.Image | None = None
    strength: float = 1.0

    def like(self, other: Drawing) -> bool:
        """Whether both can be drawn in one batch."""
        return self._kind == other._kind

    @property
    def _kind(self) -> tuple[object, ...]:
        return self.width, self.height, self.steps, self.guidance, self.source is None, self.strength


class ImageRequest(BaseModel):
    """The fields of `/v1/images/generations` and `edits`. Unknown ones are ignored, as OpenAI's clients send many."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    prompt: str = Field(min_length=1, max_length=32_000)
    model: str | None = None
    n: int | None = Field(None, ge=1, le=10)
    size: str | None = None
    width: int | None = Field(None, ge=1)
    height: int | None = Field(None, ge=1)
    num_inference_steps: int | None = Field(
        None, ge=1, validation_alias=AliasChoices("num_inference_steps", "steps", "num_steps")
    )
    guidance_scale: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    negative_prompt: str | None = Field(None, max_length=32_000)
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    stream: bool | None = None
    strength: float | None = Field(None, gt=0, le=1)

    def drawing(self, rules: SizeRules, default_steps: int, source: Image.Image | None = None) -> Drawing:
        """The checked drawing, of an edit if there is a `source`. Raises RequestError."""
        width, height = self._size(rules)
        steps = self.num_inference_steps or default_steps
        if steps > rules.max_steps:
            raise RequestError(f"num_inference_steps must be at most {rules.max_steps}.", "num_inference_steps")
        drawing = Drawing(self.prompt, self.negative_prompt or "", width, height, steps, self.guidance_scale)
        if source is None:
            return drawing
        fitted = source.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        return replace(drawing, source=fitted, strength=self.strength or DEFAULT_STRENGTH)

    def _size(self, rules: SizeRules) -> tuple[int, int]:
        param = "size" if self.width is None and self.height is None else "width"
        if param == "width":
            width, height = self.width or self.height or 0, self.height or self.width or 0
        elif self.size in (None, "", "auto"):
            return rules.default
        elif (found := _SIZE.fullmatch(self.size or "")) is None:
            raise RequestError(f"size must be WIDTHxHEIGHT in pixels, for example 64x64; got {self.size!r}.", param)
        else:
            width, height = int(found[1]), int(found[2])
        if width < rules.multiple or height < rules.multiple or width % rules.multiple or height % rules.multiple:
            message = f"Width and height must be multiples of {rules.multiple} pixels; got {width}x{height}."
            raise RequestError(message, param)
        if width * height > rules.max_pixels:
            message = f"An image may have at most {rules.max_pixels} pixels (width x height); got {width}x{height}."
            raise RequestError(message, param)
        return width, height


def parse(body: bytes, served: Sequence[str]) -> ImageRequest:
    """The checked request of a JSON body. Raises RequestError."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"The request body is not JSON: {error}.") from None
    if not isinstance(document, dict):
        raise RequestError("The request body must be a JSON object.")
    return checked(document, served)


def checked(fields: Mapping[str, Any], served: Sequence[str]) -> ImageRequest:
    """The checked request of a body's fields. Raises RequestError."""
    try:
        asked = ImageRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(map(str, first["loc"]))
        raise RequestError(f"{param}: {first['msg']}", param) from None
    if asked.model is not None and asked.model not in served:
        message = f"The model {asked.model!r} does not exist. There is: {', '.join(served)}."
        raise RequestError(message, "model", status=404, code="model_not_found")
    return asked


def read_source(data: bytes) -> Image.Image:
    """An uploaded image, decoded. Raises RequestError when it is none, cut, or too large to hold."""
    try:
        image = Image.open(io.BytesIO(data), formats=_SOURCE_FORMATS)
        if image.width * image.height > MAX_SOURCE_PIXELS:
            message = f"image may have at most {MAX_SOURCE_PIXELS} pixels; it has {image.width}x{image.height}."
            raise RequestError(message, "image")
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise RequestError("image must be a PNG, JPEG or WebP file.", "image") from None
    return image
