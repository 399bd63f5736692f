"""Earlier answers to deterministic requests, for when everything fails: `stale_if_error` of a policy.

After RFC 5861. Kept are whole answers to requests that always have the same one: temperature 0, a seed, or an endpoint
that computes and does not sample. A request finds only what the same caller got for the same bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from gateway.config.schema import StaleIfErrorPolicy
from policies.outcome import ErrorKind

if TYPE_CHECKING:
    from gateway.context import RequestContext

#: Share of the whole that one answer may take.
_LARGEST = 1 / 16
_COMPUTED = frozenset({"/v1/embeddings", "/v1/rerank", "/v1/score"})
#: Who a caller is, where the gateway has no key of its own for it.
_CREDENTIALS = (b"authorization", b"x-api-key")
#: Failures of backends; a client's own mistakes are told as ever.
REPLACED = frozenset(
    {
        ErrorKind.GENERATION_FAILED,
        ErrorKind.BACKEND_UNREACHABLE,
        ErrorKind.MODEL_OVERLOADED,
        ErrorKind.MODEL_LOADING,
        ErrorKind.MODEL_LOADING_FAILED,
        ErrorKind.INFERENCE_TIMEOUT,
        ErrorKind.OUT_OF_MEMORY,
    }
)


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """A backend's answer of loop time `at`; `lines` are the headers that say where it comes from."""

    body: bytes
    content_type: bytes
    lines: bytes
    model: str
    at: float


class StaleAnswers:
    """The answers of one route, the oldest leaving first when there is no room."""

    __slots__ = ("_answers", "_policy", "_size")

    def __init__(self, policy: StaleIfErrorPolicy) -> None:
        self._policy = policy
        self._answers: OrderedDict[bytes, KeptAnswer] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._answers)

    def keep(self, key: bytes, answer: KeptAnswer) -> None:
        """Keeps an answer, in place of an older one to the same request; not one that is too large."""
        policy = self._policy
        if len(answer.body) > policy.max_size * _LARGEST:
            return
        self._forget(key)
        self._answers[key] = answer
        self._size += len(answer.body)
        while len(self._answers) > policy.max_entries or self._size > policy.max_size:
            self._forget(next(iter(self._answers)))

    def find(self, key: bytes, now: float) -> KeptAnswer | None:
        """The answer to a request, if it is not older than `ttl`."""
        answer = self._answers.get(key)
        if answer is not None and now - answer.at > self._policy.ttl:
            self._forget(key)
            return None
        return answer

    def _forget(self, key: bytes) -> None:
        answer = self._answers.pop(key, None)
        if answer is not None:
            self._size -= len(answer.body)


def stale_key(ctx: RequestContext) -> bytes | None:
    """What tells a request and its caller from all others; None for one that may be answered differently each time."""
    facts = ctx.facts
    if facts.stream or not (facts.temperature == 0 or facts.seed is not None or ctx.api_path in _COMPUTED):
        return None
    digest = blake2b(digest_size=32)
    caller = ctx.key.name.encode() if ctx.key is not None else b""
    credentials = [ctx.request.headers.get(name, b"") for name in _CREDENTIALS]
    for part in (caller, *credentials, ctx.request.target, ctx.request.headers.get(b"content-type", b""), facts.body):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
