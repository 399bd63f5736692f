"""Hostile request bodies and heads, made from a seed: the same ones in every run."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

JSON_PATHS = (
    *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages", "/v1/rerank"),
    *("/v1/score", "/v1/audio/speech", "/v1/images/generations", "/tokenize", "/detokenize", "/generate"),
    "/generate_image",
)
FORM_PATHS = ("/v1/images/edits", "/v1/images/variations", "/v1/audio/transcriptions", "/v1/audio/translations")
_FIELDS: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "count"}],
    "prompt": "count",
    "input": "count",
    "max_tokens": 2,
    "temperature": 0.5,
    "top_p": 1,
    "n": 1,
    "stream": False,
    "stop": ["x"],
    "seed": 1,
    "logprobs": None,
    "tools": None,
    "response_format": None,
    "stream_options": None,
    "size": "64x64",
    "documents": ["a"],
    "query": "a",
    "text_1": "a",
    "text_2": "b",
    "tokens": [1, 2],
    "inputs": "count",
    "parameters": {"max_new_tokens": 2},
    "voice": "a",
    "num_inference_steps": 1,
}
_NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 1e308, -1e308, 2**31, 2**53 + 1, 2**63, -(2**63), 10**30, 10**400),
    *("", " ", "\0", "\x1b[2J", "\r\nX-Evil: 1", "a" * 5000, "\ud800", "\u202e\u2066", "💥" * 50, "../../etc/passwd"),
    *("${HOME}", "{{7*7}}", "<script>alert(1)</script>", "' OR 1=1 --", "%s%n%x", "__proto__", "nan", "Infinity"),
    *([], [[]], [None], [{}], {}, {"": ""}, {"a": {"b": {"c": None}}}, [0] * 2000, ["a"] * 500, {"role": "user"}),
    *([{"role": "user"}], [{"role": 5, "content": []}], [{"content": "x"}], [{"role": "user", "content": {"type": 1}}]),
    *([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],),
    *([{"role": "\0", "content": "\0"}], [{"role": "user", "content": None, "tool_calls": "x"}]),
)
_RAW: tuple[bytes, ...] = (
    *(b"", b" ", b"\n\n", b"null", b"true", b"0", b'"x"', b"[]", b"[{}]", b"{}", b"{", b"}", b"{]", b'{"', b"{'a':1}"),
    *(b'{"model"}', b'{"model":}', b'{"model":"tiny",}', b'{"model":"tiny"}{"model":"tiny"}', b'{"a":1}garbage'),
    *(b"NaN", b'{"temperature":NaN}', b'{"temperature":Infinity}', b'{"temperature":1e999}', b'{"n":1e400}'),
    *(b'{"n":' + b"9" * 5000 + b"}", b'{"n":-0}', b'{"n":01}', b'{"n":0x10}', b'{"n":+1}', b'{"n":.5}', b'{"n":1.}'),
    *(b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0", b'{"model":"\xff"}', b'{"model":"\xc0\xaf"}', b'{"model":"\xed\xa0\x80"}'),
    *(b'{"model":"\\ud800"}', b'{"model":"\\u0000"}', b'{"model":"\\x"}', b'{"model":"\t"}', b'{"model":"\x00"}'),
    *(b"[" * 65, b"[" * 100_000, b'{"a":' * 100_000, b"[" * 5000 + b"]" * 5000, b'{"a":' * 5000 + b"1" + b"}" * 5000),
    *(b'{"model":"a","model":"tiny"}', b'{"Model":"tiny"}', b'{"MODEL":"tiny","model":"x"}', b'{"mod\\u0065l":"tiny"}'),
    *(b"a" * 100_000, b"\0" * 10_000, bytes(range(256)) * 20, b"<?xml version='1.0'?><a/>", b"model=tiny&prompt=x"),
    *(
        b"%PDF-1.4",
        b"\x1f\x8b\x08\0",
        b"PK\x03\x04",
        b"--x\r\n\r\n--x--\r\n",
        b'{"messages":' + b'[{"role":"user"},' * 999,
    ),
    b'{"model":"tiny","messages":[{"role":"user","content":"' + b"a" * 300_000 + b'"}],"max_tokens":1}',
)
_TYPES = (
    *("", "application/json", "application/json; charset=utf-16", "text/plain", "application/x-www-form-urlencoded"),
    *("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=x", "application/xml"),
    *("a" * 2000, "application/JSON;;;", "application/json, text/html", "multipart/form-data; boundary=" + "b" * 200),
    *("image/png", "application/octet-stream", "text/json; charset=x-none", "\xff/\xfe", 'x; boundary="\\"'),
)
_HEADERS = (
    *(("X-Request-Timeout", value) for value in ("", "0", "-1", "nan", "inf", "1e999", "a", "0x10", "9" * 300, "1_0")),
    *(("X-Priority", value) for value in ("", "-1", "10", "a", "9" * 100, "²")),
    *(("X-Correlation-ID", value) for value in ("", " ", "a b", "a" * 129, "\xff", "<script>", "a;b", "${jndi:x}")),
    *(
        ("traceparent", value)
        for value in ("", "00", "00-0-0-0", "ff-" + "a" * 32 + "-" + "b" * 16 + "-01", "\xff" * 55)
    ),
    *(("Content-Encoding", value) for value in ("gzip", "deflate", "br", "zstd", "identity", "gzip, gzip", "\xff")),
    *(
        ("Accept", value)
        for value in ("", "application/problem+json;q=nan", "*/*;q=\xff", "," * 500, "application/xml")
    ),
    *(("Authorization", value) for value in ("", "Bearer", "Bearer \xff", "Basic !!!", "a" * 5000)),
    *(("Accept-Encoding", "gzip;q=\xff"), ("Range", "bytes=0-,1-"), ("If-Match", "*"), ("Cookie", "a" * 8000)),
    *(("X-Session-ID", "\xff" * 500), ("X-Forwarded-For", "\xff,,,'"), ("Forwarded", 'for="\xff'), ("Expect", "x")),
)


@dataclass(frozen=True, slots=True)
class Hostile:
    """One request; `why` says what is wrong with it."""

    why: str
    path: str
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    method: str = "POST"

    def as_bytes(self) -> bytes:
        """The request on the wire, its framing sound."""
        lines = [f"{self.method} {self.path} HTTP/1.1", "Host: x", f"Content-Length: {len(self.body)}"]
        if self.content_type:
            lines.append(f"Content-Type: {self.content_type}")
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + self.body


def requests(seed: int = 2026) -> Iterator[Hostile]:
    """Some 1,800 requests: broken and odd JSON, wrong types and values, forms, content types, headers, methods."""
    rng = random.Random(seed)
    for path in JSON_PATHS:
        yield from (Hostile("raw body", path, body) for body in _RAW)
        for _ in range(60):
            yield Hostile("wrong values", path, _wrong_values(rng))
    good = json.dumps({k: v for k, v in _FIELDS.items() if v is not None}).encode()
    for media in _TYPES:
        yield from (Hostile("content type", path, good, media) for path in (*JSON_PATHS[:3], *FORM_PATHS, "/v1/other"))
    for header in _HEADERS:
        for path in ("/v1/chat/completions", "/v1/messages", "/generate", "/v1/nothing/here"):
            yield Hostile("header", path, good, headers=(header,))
    for path in (*FORM_PATHS, "/v1/unknown/upload"):
        yield from _forms(rng, path)
    for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"):
        for path in ("/v1/chat/completions", "/v1/models", "/v1/models/" + "a" * 3000, "/nothing", "/generate", "/v1/"):
            yield Hostile("method", path, b"", method=method)


def _wrong_values(rng: random.Random) -> bytes:
    fields = {name: value for name, value in _FIELDS.items() if value is not None and rng.random() < 0.5}
    fields["model"] = "tiny"
    for name in rng.sample(sorted(_FIELDS), rng.randint(1, 3)):
        fields[name] = rng.choice(_NASTY)
    text = json.dumps(fields, ensure_ascii=rng.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


def png(width: int, height: int, *, data: bytes = b"") -> bytes:
    """A PNG that claims these dimensions, whatever it holds."""

    def block(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = data or zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", header) + block(b"IDAT", pixels) + block(b"IEND", b"")


_UPLOADS = (
    *(
        b"",
        b"\0",
        b"a" * 1000,
        b"\x89PNG\r\n\x1a\n",
        png(0, 0),
        png(1, 1)[:40],
        png(2**31 - 1, 2**31 - 1),
        png(60000, 60000),
    ),
    *(
        b"GIF89a" + b"\xff" * 20,
        b"\xff\xd8\xff\xe0" + b"\0" * 50,
        b"RIFF\xff\xff\xff\xffWAVE",
        b"RIFF\0\0\0\0WEBP",
        b"ID3",
    ),
    *(
        b"<svg onload=alert(1)>",
        b"%!PS",
        b"MZ" + b"\0" * 100,
        b"OggS",
        b"fLaC",
        b"\0\0\0\x18ftypmp42",
        b"BM" + b"\xff" * 60,
    ),
)


def _forms(rng: random.Random, path: str) -> Iterator[Hostile]:
    for upload in _UPLOADS:
        parts = [part("model", b"tiny"), part("prompt", b"x")]
        parts += [part(name, upload, "a.png") for name in ("image", "file")]
        yield Hostile("upload", path, form(*parts), "multipart/form-data; boundary=bnd")
    for odd in (
        *(b"", b"--bnd", b"--bnd--\r\n", b"--bnd\r\n\r\n--bnd--", b"--other\r\n\r\nx\r\n--other--", b"\r\n" * 500),
        form(*[part("a", b"1")] * 200),
        form(part("a" * 5000, b"1")),
        form(part('a"; name="model', b"tiny"), part("model", b"x"), part("model", b"y")),
        b"--bnd\r\nContent-Disposition: form-data; name=model\r\n" + b"X-A: b\r\n" * 500 + b"\r\ntiny\r\n--bnd--\r\n",
        b"--bnd\r\nContent-Disposition: " + b"a" * 5000 + b"\r\n\r\nx\r\n--bnd--\r\n",
        form(part("model", b"x")).replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n", 1),
        form(part("model", b"tiny"), part("image", png(8, 8), "../../etc/passwd\0.png")),
        form(part("model", b"\xff\xfe"), part("n", b"9" * 500), part("stream", b"maybe")),
        form(part("model", b"tiny"))[:-9],
        bytes(rng.randrange(256) for _ in range(2000)),
    ):
        yield Hostile("form", path, odd, "multipart/form-data; boundary=bnd")


def part(name: str, data: bytes, filename: str | None = None) -> bytes:
    """One part of a form."""
    file = f'; filename="{filename}"\r\nContent-Type: image/png' if filename is not None else ""
    head = f'Content-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode("latin-1") + data


def form(*parts: bytes) -> bytes:
    """A form with the boundary `bnd`."""
    return b"".join(b"--bnd\r\n" + each + b"\r\n" for each in parts) + b"--bnd--\r\n"
