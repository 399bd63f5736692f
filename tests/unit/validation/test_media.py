"""What files are, told by their bytes."""

from __future__ import annotations

import base64
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.validation import media


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + b"\x08\x02\0\0\0"


def jpeg(width: int, height: int, metadata: int = 0, marker: int = 0xC0) -> bytes:
    segments = b""
    while metadata > 0:
        size = min(metadata, 65_000)
        segments += b"\xff\xe1" + struct.pack(">H", size + 2) + b"\0" * size
        metadata -= size
    frame = b"\xff" + bytes([marker]) + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\x01\x11\0"
    return b"\xff\xd8\xff\xe0\x00\x10JFIF" + b"\0" * 10 + segments + b"\xff\xff" + frame


def webp(chunk: bytes) -> bytes:
    return b"RIFF\0\0\0\0WEBP" + (chunk + b"\0" * 20)


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height)


IMAGES = [
    (png(300, 200), "image/png"),
    (jpeg(300, 200), "image/jpeg"),
    (jpeg(300, 200, marker=0xC2), "image/jpeg"),
    (jpeg(300, 200, metadata=200_000), "image/jpeg"),
    (webp(b"VP8 \0\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 300, 200)), "image/webp"),
    (webp(b"VP8L\0\0\0\0\x2f" + struct.pack("<I", 299 | 199 << 14)), "image/webp"),
    (webp(b"VP8X\0\0\0\0\0\0\0\0" + (299).to_bytes(3, "little") + (199).to_bytes(3, "little")), "image/webp"),
    (gif(300, 200), "image/gif"),
]


@pytest.mark.parametrize(("data", "media_type"), IMAGES)
def test_images_tell_their_type_and_size(data: bytes, media_type: str) -> None:
    assert media.image_type(data) == media_type
    assert media.image_size(data) == (300, 200)
    assert media.data_url_problem(f"data:{media_type};base64,{base64.b64encode(data).decode()}") is None


@pytest.mark.parametrize("data", [d for d, _ in IMAGES if len(d) < 1000])
def test_cut_images_have_no_size(data: bytes) -> None:
    assert media.image_size(data[:9]) is None
    assert media.image_size(data[:20]) is None or media.image_type(data) == "image/gif"


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b"RIFF\x24\0\0\0WAVEfmt ", "audio/wav"),
        (b"ID3\x04\0", "audio/mpeg"),
        (b"\xff\xfb\x90\x64", "audio/mpeg"),
        (b"fLaC\0\0\0\x22", "audio/flac"),
        (b"OggS\0\x02", "audio/ogg"),
        (b"\0\0\0\x20ftypM4A ", "audio/mp4"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x86", "audio/webm"),
        (b"\0\0\0\x20ftypavif", None),
        (b"\xff\xf1\x50\x80", None),
        (b"\xff\xff\xff\xff", None),
        (b"MZ\x90\0", None),
        (b"", None),
    ],
)
def test_sound_tells_its_type(data: bytes, media_type: str | None) -> None:
    assert media.audio_type(data) == media_type


def url(data: bytes, declared: str = "image/png") -> str:
    return f"data:{declared};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (url(png(1, 1), "image/jpeg"), "is declared as image/jpeg but holds a PNG image"),
        (url(b"<svg/>", "image/svg+xml"), "must be a PNG, JPEG, WebP or GIF image"),
        (url(b"MZ executable"), "must be a PNG, JPEG, WebP or GIF image"),
        (url(b""), "must not be empty"),
        (url(png(1, 1)[:12]), "its size cannot be read"),
        (url(png(0, 5)), "its size cannot be read"),
        (url(png(60_000, 60_000)), "must be at most 89478485 pixels; it is 60000x60000"),
        ("data:image/png;base64,é", "must be valid base64"),
        ("data:image/png,abc", "must be an http(s) URL or a data: URL in base64"),
        ("data:image/png;base64", "must be an http(s) URL or a data: URL in base64"),
    ],
)
def test_bad_data_urls_are_told_in_plain_words(value: str, part: str) -> None:
    assert part in (media.data_url_problem(value) or "")


def test_wrapped_base64_and_other_spellings_of_jpeg_are_read() -> None:
    data = base64.encodebytes(jpeg(8, 8, metadata=150_000)).decode()
    assert media.data_url_problem(f"data:image/jpg;name=x;base64,{data}") is None


@pytest.mark.parametrize(
    ("data", "declared", "part"),
    [
        (b"RIFF\x24\0\0\0WAVEfmt ", "wav", None),
        (b"\1\2\3\4", "pcm16", None),
        (b"fLaC\0\0\0\x22", "wav", "is declared as wav but holds FLAC audio"),
        (b"MZ\x90\0", "mp3", "must hold WAV, MP3"),
        (b"", "mp3", "must not be empty"),
    ],
)
def test_sound_in_a_message_must_be_what_it_says(data: bytes, declared: str, part: str | None) -> None:
    problem = media.audio_problem(base64.b64encode(data).decode(), declared)
    assert problem == part or (part is not None and problem is not None and part in problem)


@given(st.sampled_from([data[:40] for data, _ in IMAGES]), st.binary(max_size=60), st.integers(0, 40))
def test_damaged_headers_raise_nothing(head: bytes, tail: bytes, cut: int) -> None:
    size = media.image_size(head[:cut] + tail)
    assert size is None or (size[0] > 0 and size[1] > 0)
    media.audio_type(head[:cut] + tail)
