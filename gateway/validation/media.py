"""What a file is, told by its bytes: names and declared types are only what a client says.

Reads headers alone; nothing is decoded, so that a small file that unpacks to gigabytes costs nothing here.
Formats: PNG (W3C PNG 3rd ed. §5), JPEG (ITU T.81 §B), WebP (RFC 9649), GIF89a; WAV, MP3, FLAC, Ogg, MP4/M4A, WebM.
"""

from __future__ import annotations

import binascii
from typing import Any

#: The largest image a data: URL may unpack to, in pixels: where Pillow, which most servers use, cries bomb.
MAX_PIXELS = 89_478_485

IMAGE_TYPES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WebP", "image/gif": "GIF"}
AUDIO_TYPES = {
    "audio/wav": "WAV",
    "audio/mpeg": "MP3",
    "audio/flac": "FLAC",
    "audio/ogg": "Ogg",
    "audio/mp4": "MP4/M4A",
    "audio/webm": "WebM",
}

_HEAD = 87_380  # base64 characters of the first 64 KiB, where nearly every file says what it is
_MAX_DATA_HEAD = 512  # characters of a data: URL before its data
_JPEG_SEGMENTS = 1_000
_ALIASES = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg"}
_INPUT_AUDIO = {"wav": "audio/wav", "mp3": "audio/mpeg", "flac": "audio/flac", "ogg": "audio/ogg"}
_STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1")


def either(names: list[str]) -> str:
    """`PNG, JPEG or GIF`."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]


def image_type(data: bytes) -> str | None:
    """The media type of an image by its magic number, or None."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return None


def audio_type(data: bytes) -> str | None:
    """The media type of sound (or of a video whose sound is meant) by its magic number, or None."""
    if data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE":
        return "audio/wav"
    if data.startswith(b"ID3") or _is_mpeg_audio_frame(data):
        return "audio/mpeg"
    if data.startswith(b"fLaC"):
        return "audio/flac"
    if data.startswith(b"OggS"):
        return "audio/ogg"
    if data[4:8] == b"ftyp" and data[8:12] not in _STILL_BRANDS:
        return "audio/mp4"
    if data.startswith(b"\x1a\x45\xdf\xa3"):
        return "audio/webm"
    return None


def _is_mpeg_audio_frame(data: bytes) -> bool:
    """A sync word, then a layer, a bit rate and a sample rate that exist; layer 0 would be AAC."""
    if len(data) < 3 or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
        return False
    return data[1] & 0x18 != 0x08 and data[1] & 0x06 != 0 and data[2] & 0xF0 != 0xF0 and data[2] & 0x0C != 0x0C


def image_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) in pixels from an image's header; None where it cannot be read or says nothing."""
    width = height = 0
    match image_type(data):
        case "image/png" if data[12:16] == b"IHDR" and len(data) >= 24:
            width, height = _big(data[16:20]), _big(data[20:24])
        case "image/jpeg":
            width, height = _jpeg_size(data)
        case "image/webp":
            width, height = _webp_size(data)
        case "image/gif" if len(data) >= 10:
            width, height = _little(data[6:8]), _little(data[8:10])
    return (width, height) if width and height else None


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Walks the segments to the start-of-frame marker."""
    at = 2
    for _ in range(_JPEG_SEGMENTS):
        while data[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        if len(data) < at + 9 or data[at] != 0xFF:
            break
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return _big(data[at + 7 : at + 9]), _big(data[at + 5 : at + 7])
        at += 2 + _big(data[at + 2 : at + 4])
    return 0, 0


def _webp_size(data: bytes) -> tuple[int, int]:
    if len(data) < 30:
        return 0, 0
    match data[12:16]:
        case b"VP8 ":
            return _little(data[26:28]) & 0x3FFF, _little(data[28:30]) & 0x3FFF
        case b"VP8L":
            bits = _little(data[21:25])
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X":
            return _little(data[24:27]) + 1, _little(data[27:30]) + 1
    return 0, 0


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


def data_url_problem(url: str) -> str | None:
    """What is wrong with an image's `data:` URL, in words for the client; None if nothing."""
    comma = url.find(",", 5, _MAX_DATA_HEAD)
    media_type, *parameters = url[5 : max(comma, 5)].lower().split(";")
    if "base64" not in (parameter.strip() for parameter in parameters):
        return "must be an http(s) URL or a data: URL in base64, as in data:image/png;base64,..."
    return base64_image_problem(url, media_type.strip(), comma + 1)


def base64_image_problem(payload: Any, media_type: str, start: int = 0) -> str | None:
    """What is wrong with the image in base64 from `start` on that is declared as `media_type`; None if nothing."""
    declared = _ALIASES.get(media_type.lower(), media_type.lower())
    head = _decode(payload, start, _HEAD)
    if head is None:
        return "must be valid base64"
    if not head:
        return "must not be empty"
    found = image_type(head)
    if declared not in IMAGE_TYPES or found is None:
        return f"must be a {either(list(IMAGE_TYPES.values()))} image"
    if declared != found:
        return f"is declared as {declared} but holds a {IMAGE_TYPES[found]} image"
    # A JPEG's size may follow any amount of metadata.
    size = image_size(head) or (image_size(_decode(payload, start, len(payload)) or b""))
    if size is None:
        return "must be a whole image: its size cannot be read"
    if size[0] * size[1] > MAX_PIXELS:
        return f"must be at most {MAX_PIXELS} pixels; it is {size[0]}x{size[1]}"
    return None


def audio_problem(payload: Any, declared: Any) -> str | None:
    """What is wrong with a chat message's sound in base64; None if nothing, or if its format has no magic number."""
    head = _decode(payload, 0, 64)
    if head is None:
        return "must hold valid base64 in data"
    if not head:
        return "must not be empty"
    expected = _INPUT_AUDIO.get(declared) if isinstance(declared, str) else None
    if expected is None:
        return None
    found = audio_type(head)
    if found is None:
        return f"must hold {either(list(AUDIO_TYPES.values()))} audio"
    if found != expected:
        return f"is declared as {declared} but holds {AUDIO_TYPES[found]} audio"
    return None


def _decode(payload: Any, start: int, limit: int) -> bytes | None:
    """Up to `limit` base64 characters from `start` on, decoded; None if they are not base64."""
    if not isinstance(payload, str):
        return None
    part = payload[start : start + limit]
    if any(space in part[:256] for space in "\r\n "):  # wrapped lines, as in MIME
        part = "".join(part.split())
    if start + limit < len(payload):
        part = part[: len(part) // 4 * 4]
    try:
        return binascii.a2b_base64(part)
    except ValueError:
        return None
