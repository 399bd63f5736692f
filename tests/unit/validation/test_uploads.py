"""Forms: their fields, their files, and their rewriting."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import uploads
from gateway.uploads import parse_multipart
from gateway.validation.errors import InvalidRequest
from gateway.validation.facts import Limits, check_limits
from policies.outcome import ErrorKind

TRANSCRIBE = "/v1/audio/transcriptions"
EDIT = "/v1/images/edits"
TYPE = "multipart/form-data; boundary=BB"
WAV = b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 20 + b"\r\n--B"  # nearly a boundary
Part = tuple[str, bytes] | tuple[str, bytes, str]


def png(width: int = 8, height: int = 8) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + b"\x08\x02\0\0\0"


def form(*parts: Part) -> bytes:
    """(name, data) or, for a file, (name, data, filename)."""
    body = b""
    for part in parts:
        filename = f'; filename="{part[2]}"\r\nContent-Type: text/plain' if len(part) == 3 else ""
        head = f'--BB\r\nContent-Disposition: form-data; name="{part[0]}"{filename}\r\n\r\n'
        body += head.encode() + part[1] + b"\r\n"
    return body + b"--BB--\r\n"


def refusal(path: str, body: bytes, content_type: str = TYPE) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_multipart(path, content_type, body)
    return caught.value


SOUND: Part = ("file", WAV, "notes.txt")  # the name says nothing
IMAGE: Part = ("image", png(), "x.jpg")
PROMPT: Part = ("prompt", b"a hat")


def test_a_transcription_is_read_and_goes_on_as_the_same_object() -> None:
    body = form(("model", b"whisper"), SOUND, ("stream", b"true"), ("temperature", b"0.5"), ("other[]", b"x"))
    facts = parse_multipart(TRANSCRIBE, TYPE, body)
    assert facts.body is body
    assert (facts.model, facts.stream, facts.temperature) == ("whisper", True, 0.5)


def test_an_edit_is_read() -> None:
    facts = parse_multipart(EDIT, TYPE, form(PROMPT, ("image[]", png(8, 4), "a"), ("image[]", png(), "b"), ("n", b"2")))
    assert (facts.model, facts.n, facts.input_chars) == (None, 2, 5)
    assert facts.uploaded_images == [("image[]", (8, 4)), ("image[]", (8, 8))]


def test_another_model_changes_only_its_part() -> None:
    body = form(SOUND, ("model", b"whisper"), ("language", b"en"))
    facts = parse_multipart(TRANSCRIBE, TYPE, body)
    assert facts.with_model("tiny") == body.replace(b"whisper", b"tiny")
    assert facts.with_model("whisper") is body


def test_fields_are_added_and_removed() -> None:
    facts = parse_multipart(EDIT, TYPE, form(PROMPT, IMAGE, ("seed", b"1")))
    changed = facts.with_fields({"model": "m", "n": 2, "stream": True}, remove=["seed"])
    assert changed == form(PROMPT, IMAGE, ("model", b"m"), ("n", b"2"), ("stream", b"true"))


MODEL: Part = ("model", b"m")


@pytest.mark.parametrize(
    ("path", "parts", "expected"),
    [
        (TRANSCRIBE, [MODEL], {"file": "This field is required"}),
        (TRANSCRIBE, [SOUND], {"model": "This field is required"}),
        (TRANSCRIBE, [MODEL, ("file", b"", "a.wav")], {"file": "must not be an empty file"}),
        (TRANSCRIBE, [MODEL, ("file", WAV)], {"file": "must be a file"}),
        (
            TRANSCRIBE,
            [MODEL, ("file", b"MZ\x90\0 not sound", "a.wav")],
            {
                "file": "must be a file of type WAV, MP3, FLAC, Ogg, MP4/M4A or WebM, told by its content"
            },
        ),
        (EDIT, [PROMPT, ("image", WAV, "a.png")],
         {"image": "must be a file of type PNG, JPEG or WebP, told by its content"}),
        (EDIT, [PROMPT, ("image", png()[:12], "a")], {"image": "must be a whole image: its size cannot be read"}),
        (EDIT, [PROMPT, ("image", png(60_000, 60_000), "a")], {"image": "must be at most 89478485 pixels"}),
        (EDIT, [IMAGE], {"prompt": "This field is required"}),
        (EDIT, [IMAGE, PROMPT, ("n", b"x")], {"n": "must be an integer"}),
        (TRANSCRIBE, [MODEL, MODEL, SOUND], {"model": "must be given once"}),
        (TRANSCRIBE, [("model", b"m", "a.txt"), SOUND], {"model": "must be text, not a file"}),
        (TRANSCRIBE, [("model", b"\xff"), SOUND], {"model": "must be valid UTF-8"}),
        (TRANSCRIBE, [("model", b"a\r\nb"), SOUND], {"model": "must not contain control characters"}),
    ],
)  # fmt: skip
def test_wrong_fields_and_files_are_named(path: str, parts: Sequence[Part], expected: dict[str, str]) -> None:
    error = refusal(path, form(*parts))
    assert error.kind is ErrorKind.VALIDATION_ERROR
    assert error.field_errors == {name: [text] for name, text in expected.items()}


def test_a_file_over_the_limit_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_FILE", 1 << 20)
    error = refusal(TRANSCRIBE, form(MODEL, ("file", WAV + b"\0" * (1 << 20), "a.wav")))
    assert error.kind is ErrorKind.PAYLOAD_TOO_LARGE
    assert error.message == "The file in 'file' is larger than 1 MiB"


@pytest.mark.parametrize(
    ("content_type", "body", "part"),
    [
        ("application/json", form(MODEL), "must be multipart/form-data"),
        ("", form(MODEL), "must be multipart/form-data"),
        ("multipart/form-data", form(MODEL), "lacks its boundary"),
        ("multipart/form-data; boundary=" + "b" * 300, form(MODEL), "not valid multipart"),
        ("multipart/form-data; boundary=漢", form(MODEL), "must be multipart/form-data"),
        (TYPE, b"", "cut short"),
        (TYPE, b"{}", "not valid multipart"),
        (TYPE, form(MODEL)[:-8], "cut short"),
        (TYPE, form(*[MODEL] * 65), "more than 64 parts"),
        (TYPE, form(("prompt", b"\r\n--BBX" * 65)), "more than 64 parts"),
        (TYPE, form(("n" * 2000, b"")), "not valid multipart"),
        (TYPE, b"--BB\r\n" + b"".join(b"A%d: b\r\n" % i for i in range(9)) + b"\r\n\r\n--BB--", "not valid multipart"),
        (TYPE, b"--BB\r\nX: y\r\n\r\nz\r\n--BB--\r\n", "has no name"),
        (TYPE, b"--BB\r\n\r\nz\r\n--BB--\r\n", "has no name"),
        (TYPE, form(MODEL).replace(b"\r\n\r\n", b"\r\nContent-Disposition: x\r\n\r\n", 1), "repeats"),
        (
            TYPE,
            form(MODEL).replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n", 1),
            "Content-Transfer-Encoding",
        ),
    ],
)
def test_unreadable_forms_are_invalid_input(content_type: str, body: bytes, part: str) -> None:
    error = refusal("/v1/audio/translations", body, content_type)
    assert error.kind is ErrorKind.INVALID_INPUT
    assert part in error.message


def test_control_characters_are_taken_out_of_the_prompt_alone() -> None:
    body = form(("prompt", b"a\x00 hat\x7f"), IMAGE, ("user", b"\x01"))
    assert parse_multipart(EDIT, TYPE, body).body == form(PROMPT, IMAGE, ("user", b"\x01"))


def test_sanitising_cannot_make_a_boundary() -> None:
    error = refusal(EDIT, form(("prompt", b"x\r\n-\x00-BB\r\nContent-Disposition: y"), IMAGE))
    assert error.kind is ErrorKind.INVALID_INPUT


def test_an_uploaded_image_is_held_to_the_policys_pixels() -> None:
    facts = parse_multipart(EDIT, TYPE, form(PROMPT, ("image", png(100, 50), "a")))
    check_limits(facts, Limits(None, None, 5000, None))
    with pytest.raises(InvalidRequest) as caught:
        check_limits(facts, Limits(None, None, 4999, None))
    assert caught.value.field_errors == {"image": ["must be at most 4999 pixels (width x height); it is 100x50"]}


def test_an_unknown_paths_form_is_read_for_its_model_only() -> None:
    body = form(MODEL, ("doc", b"%PDF", "a.pdf"))
    facts = parse_multipart("/v1/files", TYPE, body)
    assert facts.model == "m"
    assert facts.body is body


chunks = st.lists(
    st.sampled_from(
        [
            b"--BB",
            b"--",
            b"\r\n",
            b"\r\n\r\n",
            b"Content-Disposition: form-data; ",
            b'name="model"',
            b"; filename=",
            b":",
            b" ",
        ]
    )
    | st.binary(max_size=8),
    max_size=24,
)


@given(chunks.map(b"".join), st.sampled_from([*uploads.ENDPOINTS, "/v1/files"]))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_raise_nothing_else(body: bytes, path: str) -> None:
    for candidate in (body, form(("model", body.replace(b"--BB", b"")), SOUND)):
        try:
            facts = parse_multipart(path, TYPE, candidate)
        except InvalidRequest:
            continue
        again = parse_multipart(path, TYPE, facts.with_model("other"))
        assert again.model == "other"
