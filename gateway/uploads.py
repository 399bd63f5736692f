"""Multipart bodies: their fields, and their files checked by content.

Parsed by python-multipart, the parser that vLLM's and SGLang's servers use through Starlette: what is checked here is
what they will see. The body goes on as it came; a rewrite copies the other parts byte for byte.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Required

from pydantic import Field, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from typing_extensions import TypedDict

from gateway.sanitise import sanitise
from gateway.validation import media
from gateway.validation.errors import (
    REQUIRED,
    InvalidRequest,
    Location,
    from_pydantic,
    unreadable,
    wrong_fields,
)
from gateway.validation.facts import Facts
from gateway.validation.schemas import UNKNOWN, Endpoint, Model, NotEmpty, NotNegative, Picture, endpoint_of
from policies.outcome import ErrorKind

MAX_PARTS = 64
MAX_FILE = 25 << 20  # bytes; OpenAI's and vLLM's limit for sound, and ample for an image
_TOO_MANY_PARTS = f"The form of this request has more than {MAX_PARTS} parts"
_MAX_HEADERS = 8
_MAX_HEADER = 1024  # bytes of one header line of a part

# It warns of every malformed body, which any client could fill a log with.
logging.getLogger("python_multipart").setLevel(logging.ERROR)

_PLAIN_ENCODINGS = ("", "7bit", "8bit", "binary")


class ImageEdit(Picture, total=False):
    prompt: Required[NotEmpty]


class Transcription(TypedDict, total=False):
    model: Required[Model]
    prompt: str | None
    language: Annotated[str, Field(max_length=64)] | None
    response_format: str | None
    temperature: NotNegative | None
    stream: bool | None


@dataclass(frozen=True, slots=True)
class UploadEndpoint:
    """The files an endpoint takes: `files` by field name, the first of them required; `types` their media types."""

    endpoint: Endpoint
    files: tuple[str, ...]
    types: Mapping[str, str]


_STILLS = {name: text for name, text in media.IMAGE_TYPES.items() if name != "image/gif"}
_TRANSCRIPTION = UploadEndpoint(endpoint_of(Transcription, text=("prompt",)), ("file",), media.AUDIO_TYPES)

ENDPOINTS = {
    "/v1/images/edits": UploadEndpoint(
        endpoint_of(ImageEdit, text=("prompt", "negative_prompt"), images=True),
        ("image", "image[]", "mask"),
        _STILLS,
    ),
    "/v1/images/variations": UploadEndpoint(endpoint_of(Picture, images=True), ("image", "image[]"), _STILLS),
    "/v1/audio/transcriptions": _TRANSCRIPTION,
    "/v1/audio/translations": _TRANSCRIPTION,
}
_UNKNOWN = UploadEndpoint(UNKNOWN, (), {})


@dataclass(slots=True)
class _Part:
    """One part; its header's first byte and its data as offsets into the body."""

    header: int = -1
    start: int = -1
    end: int = -1
    name: str = ""
    is_file: bool = False
    headers: dict[bytes, bytes] = field(default_factory=dict)


class MultipartFacts(Facts):
    """Facts of a form."""

    __slots__ = ("_boundary", "_fields", "_images", "_parts")

    def __init__(
        self,
        body: bytes,
        endpoint: Endpoint,
        boundary: bytes,
        parts: Sequence[_Part],
        fields: dict[str, Any],
        images: Sequence[tuple[str, tuple[int, int]]],
    ) -> None:
        super().__init__(body, endpoint)
        self._boundary = boundary
        self._parts = parts
        self._fields = fields
        self._images = images
        self.model = fields.get("model")
        self.stream = fields.get("stream") is True
        self.n = fields.get("n") or 1

    def field(self, name: str) -> Any:
        return self._fields.get(name)

    @property
    def uploaded_images(self) -> Sequence[tuple[str, tuple[int, int]]]:
        return self._images

    @property
    def input_chars(self) -> int:
        values = (self._fields.get(name) for name in self.endpoint.text)
        return sum(len(value) for value in values if isinstance(value, str))

    def with_fields(self, changes: Mapping[str, Any], remove: Collection[str] = ()) -> bytes:
        values = {name: _encode(value) for name, value in changes.items()}
        return _rewrite(self.body, self._boundary, self._parts, values, remove)


def parse_multipart(path: str, content_type: str, body: bytes) -> MultipartFacts:
    """Checks a multipart/form-data body for `path`; of an unknown path only its form. Raises InvalidRequest."""
    upload = ENDPOINTS.get(path, _UNKNOWN)
    boundary = _boundary(content_type)
    parts = _split(boundary, body)
    texts = _texts(upload, parts, body)
    cleaned = {n: c.encode() for n in upload.endpoint.text if (c := sanitise(texts.get(n, ""))) != texts.get(n, "")}
    if cleaned:
        return parse_multipart(path, content_type, _rewrite(body, boundary, parts, cleaned, ()))
    problems, sizes = _check_files(upload, parts, body)
    try:
        fields = upload.endpoint.validate(texts)
    except ValidationError as error:
        raise from_pydantic(error) from None
    if problems:
        raise wrong_fields(problems)
    return MultipartFacts(body, upload.endpoint, boundary, parts, fields, sizes)


def _boundary(content_type: str) -> bytes:
    try:
        media_type, options = parse_options_header(content_type)
    except UnicodeError:
        media_type, options = b"", {}
    if media_type.strip() != b"multipart/form-data":
        raise unreadable("The Content-Type of this request must be multipart/form-data")
    if not options.get(b"boundary"):
        raise unreadable("The Content-Type of this request lacks its boundary")
    return options[b"boundary"]


def _split(boundary: bytes, body: bytes) -> list[_Part]:
    """The parts of a whole body, which is written at once so that the parser's offsets are the body's."""
    # The closing boundary counts for the first, which has no line end before it. Counted ahead of parsing, as the
    # parser is slow where data is full of what only begins like a boundary.
    if body.count(b"\r\n--" + boundary) > MAX_PARTS:
        raise unreadable(_TOO_MANY_PARTS)
    parts: list[_Part] = []
    header_name = b""
    ended = False

    def begin() -> None:
        parts.append(_Part())

    def on_header_field(data: bytes, start: int, end: int) -> None:
        nonlocal header_name
        header_name = data[start:end].lower()
        if parts[-1].header < 0:
            parts[-1].header = start

    def on_header_value(data: bytes, start: int, end: int) -> None:
        if header_name in parts[-1].headers:
            raise unreadable("A part of this request's form repeats one of its headers")
        parts[-1].headers[header_name] = data[start:end]
        parts[-1].start = parts[-1].end = end + len(b"\r\n\r\n")

    def on_data(_data: bytes, start: int, end: int) -> None:
        parts[-1].start, parts[-1].end = start, end

    def finish() -> None:
        nonlocal ended
        ended = True

    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": begin,
                "on_header_field": on_header_field,
                "on_header_value": on_header_value,
                "on_part_data": on_data,
                "on_end": finish,
            },
            max_header_count=_MAX_HEADERS,
            max_header_size=_MAX_HEADER,
        )
        parser.write(body)
    except FormParserError:
        raise unreadable("The body of this request is not valid multipart/form-data") from None
    if not ended:
        raise unreadable("The form in this request is cut short: its closing boundary is missing")
    for part in parts:
        _name(part)
    return parts


def _name(part: _Part) -> None:
    disposition, options = parse_options_header(part.headers.get(b"content-disposition"))
    if disposition.strip() != b"form-data" or not options.get(b"name"):
        raise unreadable("A part of this request's form has no name")
    if part.headers.get(b"content-transfer-encoding", b"").decode("latin-1").strip().lower() not in _PLAIN_ENCODINGS:
        raise unreadable("Parts of a form must be sent as they are, without a Content-Transfer-Encoding")
    part.name = options[b"name"].decode("utf-8", "replace")
    part.is_file = b"filename" in options


def _texts(upload: UploadEndpoint, parts: Sequence[_Part], body: bytes) -> dict[str, str]:
    """The form's text fields by name. One that decides what is done must not be there twice: servers differ in
    which of the two they take."""
    texts: dict[str, str] = {}
    problems: list[tuple[Location, str]] = []
    for part in parts:
        known = part.name in upload.endpoint.names
        if part.is_file:
            if known:
                problems.append(((part.name,), "must be text, not a file"))
            continue
        if part.name in texts and known:
            problems.append(((part.name,), "must be given once"))
        try:
            texts[part.name] = body[part.start : part.end].decode()
        except UnicodeDecodeError:
            problems.append(((part.name,), "must be valid UTF-8"))
    if problems:
        raise wrong_fields(problems)
    return texts


def _check_files(
    upload: UploadEndpoint, parts: Sequence[_Part], body: bytes
) -> tuple[list[tuple[Location, str]], list[tuple[str, tuple[int, int]]]]:
    """What is wrong with the files, and the sizes of the images. Raises InvalidRequest for one that is too large."""
    problems: list[tuple[Location, str]] = []
    sizes: list[tuple[str, tuple[int, int]]] = []
    for part in parts:
        if part.is_file and part.end - part.start > MAX_FILE:
            message = f"The file in {part.name[:64]!a} is larger than {MAX_FILE >> 20} MiB"
            raise InvalidRequest(ErrorKind.PAYLOAD_TOO_LARGE, message, param=part.name[:64])
        if part.name not in upload.files:
            continue
        problem = _file_problem(upload, part, body)
        if problem is not None:
            problems.append(((part.name,), problem))
        elif upload.endpoint.images:
            size = media.image_size(body[part.start : part.end])
            if size is None:
                problems.append(((part.name,), "must be a whole image: its size cannot be read"))
            elif size[0] * size[1] > media.MAX_PIXELS:
                problems.append(((part.name,), f"must be at most {media.MAX_PIXELS} pixels"))
            else:
                sizes.append((part.name, size))
    names = {part.name.removesuffix("[]") for part in parts}
    if upload.files and upload.files[0] not in names:
        problems.append(((upload.files[0],), REQUIRED))
    return problems, sizes


def _file_problem(upload: UploadEndpoint, part: _Part, body: bytes) -> str | None:
    if not part.is_file:
        return "must be a file"
    if part.start == part.end:
        return "must not be an empty file"
    head = body[part.start : part.start + 64]
    found = media.image_type(head) or media.audio_type(head)
    if found in upload.types:
        return None
    allowed = media.either(list(upload.types.values()))
    return f"must be a file of type {allowed}, told by its content"


def _encode(value: Any) -> bytes:
    """A form's text for a JSON value."""
    return (value if isinstance(value, str) else json.dumps(value)).encode()


def _rewrite(
    body: bytes, boundary: bytes, parts: Sequence[_Part], values: Mapping[str, bytes], remove: Collection[str]
) -> bytes:
    """The form with these fields set and those removed, all other parts as they were."""
    delimiter = b"--" + boundary
    if any(delimiter in value for value in values.values()):
        # Taking characters out of a text can make it a boundary, and what follows it parts of the client's making.
        raise unreadable("A field of this request's form holds the form's boundary")
    chunks: list[bytes] = []
    for part in parts:
        if part.name in remove:
            continue
        data = values.get(part.name)
        chunk = body[part.header : part.end] if data is None else body[part.header : part.start] + data
        chunks += (delimiter, b"\r\n", chunk, b"\r\n")
    present = {part.name for part in parts}
    for name, value in values.items():
        if name not in present:
            head = f'\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
            chunks += (delimiter, head, value, b"\r\n")
    return b"".join((*chunks, delimiter, b"--\r\n"))
