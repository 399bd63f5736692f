"""Fuzz targets of what is inside of HTTP: bodies, forms, streams, backends' words, headers' values, configuration."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import orjson
import yaml

from backends.dialect import ResponseHead
from backends.registry import DIALECTS
from backends.retry_after import retry_after
from backends.signals import parse_signals
from gateway.config.loader import load
from gateway.config.substitute import SubstitutionError, substitute
from gateway.errors.render import Rendering, render
from gateway.errors.taxonomy import FailedAttempt, GatewayError
from gateway.identity import KeyRing, TrustedProxies, correlation_id, given_traceparent, new_traceparent, trace_context
from gateway.relay.delivered import Delivered
from gateway.relay.journal import Journal
from gateway.relay.sse import FrameScanner, FrameTooLargeError, data_of, document_of, is_malformed, shape_for, split
from gateway.relay.token_ids import without_ids
from gateway.setup.litellm import convert
from gateway.validation import media
from gateway.validation.body import parse_body
from gateway.validation.content_encoding import decoded
from gateway.validation.errors import InvalidRequest
from policies.deadline import parse_timeout
from tests.fuzz.wire import cut
from tests.support.hostile import FORM_PATHS, JSON_PATHS

_STREAM_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses", "/v1/other")
_ENVIRON = {"A": "value", "EMPTY": ""}
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def bodies(data: bytes) -> None:
    """JSON: what is checked is what is sent on, whatever the body; a rewrite changes what it says and nothing else."""
    path, body = JSON_PATHS[data[0] % len(JSON_PATHS)] if data else JSON_PATHS[0], data[1:]
    try:
        facts = parse_body(path, "application/json", body)
    except InvalidRequest:
        return
    facts.prefix(), facts.choices, facts.steps, facts.image_size, facts.seed
    assert facts.input_chars <= 2 * len(body)
    sent = json.loads(facts.body)
    assert sent.get("model") == facts.model
    assert json.loads(facts.with_model("other"))["model"] == "other"
    again = json.loads(facts.with_fields({"n": 3}, ("stream",)))
    assert again.pop("n") == 3
    assert again == {name: value for name, value in sent.items() if name not in ("n", "stream")} or _inexact(sent)


def _inexact(value: Any) -> bool:
    """Whether it holds numbers that two JSON parsers need not read alike."""
    match value:
        case bool():
            return False
        case int():
            return not -(2**63) <= value < 2**64
        case float():
            return True
        case dict():
            return any(map(_inexact, value.values()))
        case list():
            return any(map(_inexact, value))
    return False


def forms(data: bytes) -> None:
    """Multipart: read or refused; a rewritten form says the new model and is read again."""
    path = FORM_PATHS[data[0] % len(FORM_PATHS)] if data else "/v1/other"
    for media_type in (
        "multipart/form-data; boundary=b",
        "multipart/form-data; boundary=" + data[:20].decode("latin-1"),
    ):
        with contextlib.suppress(InvalidRequest):
            facts = parse_body(path, media_type, data[1:])
            assert facts.body == data[1:]
            again = parse_body(path, media_type, facts.with_fields({"model": "other"}))
            assert again.model == "other"


def pictures(data: bytes) -> None:
    """Images, sounds, data URLs and compressed bodies: judged or refused, in bounds."""
    media.image_type(data), media.audio_type(data)
    with contextlib.suppress(ValueError):
        media.image_size(data)
    text = data.decode("latin-1")
    media.data_url_problem(text)
    media.base64_image_problem(text, "image/png")
    media.audio_problem(text, "wav")
    for coding in ("gzip", "deflate", "br"):
        with contextlib.suppress(InvalidRequest):
            assert len(decoded(data, coding, 1000)) <= 1000


def streams(data: bytes) -> None:
    """A stream: no byte is lost or added, the frames are the same however it is cut, and each can be looked into."""
    path, stream = _STREAM_PATHS[data[0] % len(_STREAM_PATHS)] if data else "/v1/other", data[1:]
    whole, pieces, journal = FrameScanner(), FrameScanner(), Journal()
    with contextlib.suppress(FrameTooLargeError):
        out = whole.feed(stream)
        assert out + whole.rest == stream
        assert b"".join(map(pieces.feed, cut(stream))) + pieces.rest == stream
        for frame in split(out):
            assert b"\n\n" not in data_of(frame)
            is_malformed(frame)
            document = document_of(frame)
            shape = shape_for(path)
            if document is not None:
                shape.has_content(document), shape.finished(document)
            for dialect in DIALECTS.values():
                dialect.classify_frame(data_of(frame))
        without_ids(out)
        journal.add(out)
        delivered = Delivered.of(journal, path)
        if delivered.plain:
            delivered.text.encode("utf-8", "surrogatepass")


def backends(data: bytes) -> None:
    """What a backend says: classified, and what of it a client gets holds no control characters."""
    status = (200, 400, 404, 413, 422, 429, 500, 503)[data[0] % 8] if data else 200
    path, body = _STREAM_PATHS[data[-1] % len(_STREAM_PATHS)] if data else "/v1/other", data[1:]
    text = data[:40].decode("latin-1")
    for dialect in DIALECTS.values():
        for content_type in ("application/json", "text/html", text):
            head = ResponseHead(status, {"content-type": content_type, "retry-after": text})
            failure = dialect.classify(path, head, body)
            if failure is not None:
                error = GatewayError.from_failures([FailedAttempt("a", failure, 1.0)])
                for rendering in Rendering:
                    status, given, shown = render(error, rendering, "id", 0.0)
                    assert 400 <= status < 600
                    assert not _CONTROLS.search(str(orjson.loads(shown))), shown
                    assert not any(bad in value for value in given.values() for bad in "\r\n\0")
            dialect.usage(body)
    signals = parse_signals(body)
    if signals is not None:
        repr(signals)
    wait = retry_after({"retry-after": text, "retry-after-ms": text}, lambda: 1000.0)
    assert wait is None or 0 <= wait < float("inf")


_PROXIES = TrustedProxies(["127.0.0.0/8", "10.0.0.0/8", "::1/128"])
_KEYS = KeyRing([])


def headers(data: bytes) -> None:
    """Values of headers: correlation IDs, traces, keys, addresses and times are read or left alone."""
    names = (b"x-correlation-id", b"x-request-id", b"traceparent", b"authorization", b"x-api-key", b"x-forwarded-for")
    given = dict(zip(names, data.split(b"\n"), strict=False))
    found = correlation_id(given)
    assert re.fullmatch(r"[A-Za-z0-9._:/+=-]{1,128}", found)
    trace_context(given)
    told = given_traceparent(given) or new_traceparent(found)
    assert re.fullmatch(rb"(?!ff)[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", told)
    assert len(told) == 55 or told[:2] != b"00"
    assert _KEYS.find(given) is None
    client = _PROXIES.client("127.0.0.1", given)
    assert re.fullmatch(r"[0-9a-fA-F.:]+", client)
    seconds = parse_timeout(data[:30].decode("latin-1"))
    assert seconds is None or 0 <= seconds < float("inf")


def configurations(data: bytes) -> None:
    """A configuration of any text: read, or said where it is wrong; a secret is in no message."""
    text = data.decode("utf-8", "replace")
    loaded = load(text, "gateway.yaml", {"SECRET": "hunter2-hunter2", "A": "x"})
    assert loaded.config is not None or loaded.problems
    for problem in loaded.problems:
        assert "hunter2-hunter2" not in str(problem)


def substitutions(data: bytes) -> None:
    """`${VAR}`: what it puts in is not looked at again, and nothing else changes."""
    text = data.decode("utf-8", "replace")
    try:
        made = substitute(text, _ENVIRON)
    except SubstitutionError:
        return
    if "$" not in text:
        assert made == text
    assert substitute(text.replace("$", "$$"), _ENVIRON) == text


def litellm(data: bytes) -> None:
    """LiteLLM's configuration: a draft that our own loader can read, or one of the errors that the command reports."""
    try:
        document = yaml.safe_load(data.decode("utf-8", "replace"))
    except (yaml.YAMLError, ValueError, RecursionError):
        return
    try:
        draft = convert(document or {})
    except (ValueError, AttributeError):
        return
    load(draft.text(), "gateway.yaml", {})


def _body(**fields: Any) -> bytes:
    return b"\0" + orjson.dumps({"model": "tiny", **fields})


_CHAT: list[Any] = [{"role": "user", "content": "count"}]
BODIES = [
    _body(messages=_CHAT, stream=True, max_tokens=5, n=2, stop=["x"], logprobs=True, seed=3, temperature=0.5),
    _body(
        messages=[
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}
        ]
    ),
    b"\0" + b'{"model":"a","model":"b","\\u006dodel":"c","MODEL":"d","messages":[' + b"[" * 70 + b"]" * 70 + b"]}",
    b"\1" + b'{"model":"tiny","prompt":[[1,2],[3]],"n":1e400,"x":"\\ud800"}',
    b"\2" + b'{"model":"tiny","input":["a","b"]}',
]
FORMS = [
    b'\2--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n--b\r\nContent-Disposition: form-data; '
    b'name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\nRIFF\0\0\0\0WAVEfmt \r\n--b--\r\n',
    b'\0--b\r\ncontent-disposition: form-data; name*=utf-8\'\'model; filename="a\\"b"\r\n\r\n\r\n--b\r\n\r\n--b--',
]
PICTURES = [
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\xff\xc0\0\x11\x08\xff\xff\xff\xff",
    b"RIFF\0\0\0\0WEBPVP8X\n\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff",
    b"data:image/png;base64,iVBORw0KGgo=",
    b"\x1f\x8b\x08\0\0\0\0\0\0\3\xab\xae\x05\0C\xbf\xa6\xa3\2\0\0\0",
]
_FRAME = (
    b'data: {"id":"a","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"x"},"token_ids":[5]}]}'
)
STREAMS = [
    b"\0" + _FRAME + b"\n\n" + _FRAME + b"\r\n\r\n: c\r\rdata: [DONE]\n\n",
    b"\2" + b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta",'
    b'"text":"a"}}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n',
    b"\0" + b'data: {"error":{"message":"EngineCore","code":500}}\n\ndata: [DONE]\n\n',
]
BACKENDS = [
    b'\1{"error":{"message":"This model\'s maximum context length is 512 tokens. However, your prompt contains 13525 '
    b'characters","type":"BadRequestError","param":"input_text","code":400}}',
    b'\6{"detail":[{"loc":["body","x"],"msg":"bad","type":"t"}]}',
    b'\0{"choices":[{"finish_reason":"stop","message":{"content":"a"}}],"usage":{"prompt_tokens":1e99}}',
    b'\0vllm:num_requests_running{a="b"} 1.0\nvllm:kv_cache_usage_perc NaN\n',
]
HEADERS = [
    b"abc\ndef\n00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\nBearer x\nkey\n1.2.3.4, [::1]:80, 10.0.0.1",
    b"30\n\n\n\n\n::ffff:10.0.0.1, fe80::1%eth0",
]
CONFIGURATIONS = [
    b"backends: {a: {url: 'http://h:1', kind: vllm, api_key: '${SECRET}'}}\nroutes: [{model: m, backends: [a]}]\n",
    b"policies:\n  a: &x {extends: b, retry: {attempts: 3}}\n  b: {<<: *x, extends: a}\nroutes: ${A:-[]}\n",
]
SUBSTITUTIONS = [b"${A} $$ ${B:-${A}} ${EMPTY:-d} $", b"${A:-$${A}}${"]
LITELLM = [
    b"model_list:\n- model_name: m\n  litellm_params: {model: hosted_vllm/x, api_base: 'http://a:8000/v1', api_key: "
    b"os.environ/KEY}\nrouter_settings: {routing_strategy: least-busy, fallbacks: [{m: [n]}], num_retries: 2}\n",
]
