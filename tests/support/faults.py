"""What can be made to go wrong in the fault backend, as data.

A `Fault` is one misbehaviour, where in the answer it strikes, and which requests it strikes. `fault(name, **changes)`
builds one from a preset (`oom`, `html_200`, …) or a kind (`rst`, `hang`, …); `from_json` does so from a control
request's object. Times are in seconds.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any


class FaultKind(StrEnum):
    """Misbehaviours. Those of the first group strike at the position `after`."""

    CLOSE = "close"  # FIN, in the middle of whatever was being said
    RST = "rst"  # SO_LINGER 0
    HANG = "hang"  # silence for `seconds` (None: until healed), then goes on as if nothing had been
    SLOW = (
        "slow"  # `seconds` more to the first token, wherever `after` says: after a stream's head, before a unary one's
    )
    END = "end"  # a well-formed end of the stream, without finish_reason and [DONE]
    ENGINE_DEATH = "engine_death"  # vLLM's: error frame, [DONE], clean end; 500 before the head
    FRAME = "frame"  # `body` and `pad` bytes as one chunk of the stream, which then goes on
    BAD_CHUNK = "bad_chunk"  # a chunk size that is no number

    RESPOND = "respond"  # `status`, `headers`, `body` instead of the model's answer
    HALF_BODY = "half_body"  # the first half of the right unary answer; see `claim_length`
    RAW = "raw"  # `body` instead of the whole answer, head included, then FIN
    ENDLESS_HEADERS = "endless_headers"  # header lines until the client leaves
    LARGE_HEADER = "large_header"  # one header line of `pad` bytes in a good answer
    INFORMATIONAL = "informational"  # 100 and 103 before a good answer
    SPLIT = "split"  # the answer in chunks of `size` bytes, whatever the frame borders
    TOKENS_PER_FRAME = "tokens_per_frame"  # `size` tokens in every frame
    CONNECTION_CLOSE = "connection_close"  # `connection: close`, and does
    HTTP10 = "http10"  # an HTTP/1.0 answer without a length, ended by FIN


_IN_STREAM = (FaultKind.END, FaultKind.FRAME, FaultKind.BAD_CHUNK)

#: Positions in an answer: on accept (before anything is read), when the request has been read, after the head, after
#: half of a unary body, after N tokens of a stream (an int), after the frame with finish_reason.
POSITIONS = ("accept", "request", "head", "half", "finish")


_ANSWERS = "/v1/*"


@dataclass(frozen=True, slots=True)
class Fault:
    """One misbehaviour, and the requests it strikes: the first `times` of those that match, each with `probability`."""

    kind: FaultKind
    after: str | int = "request"
    seconds: float | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    claim_length: bool = True  # HALF_BODY: content-length of the whole body; False: of the half
    size: int = 1
    pad: int = 0
    path: str = _ANSWERS  # a glob; not looked at on accept
    times: int | None = None
    probability: float = 1.0
    reused: bool = False  # only requests that are not the first on their connection

    def __post_init__(self) -> None:
        if not isinstance(self.after, int) and self.after not in POSITIONS:
            raise ValueError(f"after must be a number of tokens or one of {POSITIONS}, not {self.after!r}")
        if self.kind in _IN_STREAM and self.after in ("accept", "request", "half"):
            raise ValueError(f"{self.kind} strikes in a stream: after a number of tokens, the head or finish")
        if self.size < 1:
            raise ValueError("size must be at least 1")

    def matches(self, path: str, *, reused: bool) -> bool:
        """Whether a request for `path` is one of those the fault is meant for."""
        if path == "/v1/models" and self.path == _ANSWERS and self.times is not None:
            return False  # a gateway asks it on its own, and would use up a fault meant for an answer
        return fnmatchcase(path, self.path) and (reused or not self.reused)


class FaultSet:
    """The faults switched on, with what is left of each. Several may strike one request."""

    def __init__(self, seed: int = 0) -> None:
        self._active: list[tuple[Fault, list[int]]] = []
        self._random = random.Random(seed)

    def replace(self, faults: Iterable[Fault]) -> None:
        """Switches off all, then on `faults`."""
        self._active = [(each, [0]) for each in faults]

    def claim_accept(self) -> list[Fault]:
        """The faults that strike a connection just accepted."""
        return [each for each, struck in self._active if each.after == "accept" and self._claim(each, struck)]

    def claim(self, path: str, *, reused: bool) -> list[Fault]:
        """The faults that strike this request, each counted as used once."""
        return [
            each
            for each, struck in self._active
            if each.after != "accept" and each.matches(path, reused=reused) and self._claim(each, struck)
        ]

    def as_json(self) -> list[dict[str, Any]]:
        """Every active fault and how often it struck."""
        return [
            asdict(each) | {"body": base64.b64encode(each.body).decode(), "struck": struck[0]}
            for each, struck in self._active
        ]

    def _claim(self, each: Fault, struck: list[int]) -> bool:
        if each.times is not None and struck[0] >= each.times:
            return False
        if each.probability < 1 and self._random.random() >= each.probability:
            return False
        struck[0] += 1
        return True


def fault(name: str, **changes: Any) -> Fault:
    """The preset or kind called `name`, with fields changed. Raises ValueError for an unknown name."""
    preset = PRESETS.get(name)
    return replace(preset, **changes) if preset else Fault(FaultKind(name), **changes)


def from_json(value: Mapping[str, Any]) -> Fault:
    """A fault from a control request: `{"kind": preset or kind, field: value…}`.

    `body` is a string, an object (sent as JSON), or `{"base64": …}` for arbitrary bytes. Raises ValueError.
    """
    changes = dict(value)
    name = str(changes.pop("kind", ""))
    unknown = set(changes) - {f.name for f in fields(Fault)}
    if unknown:
        raise ValueError(f"unknown fault fields: {sorted(unknown)}")
    if "body" in changes:
        changes["body"] = _bytes(changes["body"])
    return fault(name, **changes)


def error_body(message: str, kind: str, code: int, param: str | None = None) -> bytes:
    """An error as vLLM words it."""
    error = {"message": message, "type": kind, "param": param, "code": code}
    return json.dumps({"error": error}, separators=(",", ":")).encode()


ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, Mapping) and set(value) == {"base64"}:
        return base64.b64decode(value["base64"])
    return json.dumps(value).encode()


def _error(status: int, message: str, kind: str, param: str | None = None, **headers: str) -> Fault:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Fault(FaultKind.RESPOND, status=status, headers=named, body=error_body(message, kind, status, param))


_HTML = b"<!doctype html><html><head><title>Welcome</title></head><body><h1>It works!</h1></body></html>\n"

PRESETS: Mapping[str, Fault] = {
    "kill": Fault(FaultKind.CLOSE, after="accept"),
    "rst_before_head": Fault(FaultKind.RST, after="request"),
    "rst_after_head": Fault(FaultKind.RST, after="head"),
    "rst_mid_stream": Fault(FaultKind.RST, after=10),
    "stale_connection": Fault(FaultKind.CLOSE, after="request", reused=True),
    "slow_first_token": Fault(FaultKind.SLOW, seconds=2.0),
    "stall": Fault(FaultKind.HANG, after=10),
    "silent_cut": Fault(FaultKind.END, after=10),
    "no_done": Fault(FaultKind.END, after="finish"),
    "engine_death": Fault(FaultKind.ENGINE_DEATH, after=10),
    "malformed_frame": Fault(FaultKind.FRAME, after=10, body=b'data: {"choices":[{"index":0,"del\n\n'),
    "giant_frame": Fault(FaultKind.FRAME, after=10, body=b"data: ", pad=8 << 20),
    "bad_chunk": Fault(FaultKind.BAD_CHUNK, after=10),
    "html_200": Fault(FaultKind.RESPOND, headers={"content-type": "text/html; charset=utf-8"}, body=_HTML),
    "half_json": Fault(FaultKind.HALF_BODY, claim_length=False),
    "half_json_wrong_length": Fault(FaultKind.HALF_BODY),
    "empty_200": Fault(FaultKind.RESPOND),
    "error_json_200": Fault(FaultKind.RESPOND, body=error_body(ENGINE_DEAD, "InternalServerError", 500)),
    "not_http": Fault(FaultKind.RAW, body=b"-ERR unknown command\r\n"),
    "malformed_chunked": Fault(
        FaultKind.RAW,
        body=b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        b'5\r\n{"id"\r\nXYZ\r\n:1}\r\n0\r\n\r\n',
    ),
    "internal_error": _error(500, "Internal server error", "InternalServerError"),
    "engine_dead": _error(500, ENGINE_DEAD, "InternalServerError"),
    "oom": _error(
        500,
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 1.02 GiB "
        "is free. Including non-PyTorch memory, this process has 78.11 GiB memory in use.",
        "InternalServerError",
    ),
    "context_length": _error(
        400,
        "This model's maximum context length is 512 tokens. However, your request has 600 input tokens. Please "
        "reduce the length of the input prompt. (parameter=input_tokens, value=600)",
        "BadRequestError",
        "input_tokens",
    ),
    "loading": _error(503, "Loading model", "unavailable_error"),
    "overloaded": _error(503, "The server is overloaded, try again later.", "ServiceUnavailableError", retry_after="1"),
    "rate_limited": _error(429, "Too many requests", "RateLimitError", retry_after="1"),
    "unauthorized": Fault(FaultKind.RESPOND, status=401, body=b'{"error":"Unauthorized"}'),
    "forbidden": _error(403, "Forbidden", "PermissionDeniedError"),
    "model_not_found": _error(404, "The model `nope` does not exist. Valid aliases: tiny.", "NotFoundError", "model"),
    "large_header": Fault(FaultKind.LARGE_HEADER, pad=1 << 20),
    "split": Fault(FaultKind.SPLIT, size=7),
}
