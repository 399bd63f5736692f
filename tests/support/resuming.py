"""An answer that breaks and goes on, without sockets: the parts of the relay between two fault backends' bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import orjson

from backends.registry import dialect_for
from gateway.relay.passage import DivergedError, Passage
from gateway.relay.resume import Resumption
from gateway.relay.sse import FrameScanner, document_of, shape_for, split
from gateway.validation.body import parse_body
from tests.support.counting_model import detokenize
from tests.support.vllm_answers import Reply, StreamReply, VllmModel

UNRESUMED = b"typed error"


@dataclass
class Stage:
    """The way of one request through backends of one kind that break at given places.

    `tokens_per_frame` by attempt. `detokenizes` False: the backends do not know that path.
    """

    path: str
    asked: dict[str, Any]
    kind: str = "vllm"
    model: VllmModel = field(default_factory=VllmModel)
    tokens_per_frame: Sequence[int] = (1,)
    detokenizes: bool = True

    def stream(self, path: str, body: bytes, attempt: int) -> list[bytes]:
        """The frames that a backend sends."""
        per_frame = self.tokens_per_frame[attempt % len(self.tokens_per_frame)]
        headers = {"x-request-id": f"try-{attempt}"}
        reply = self.model.answer("POST", path, headers, body, tokens_per_frame=per_frame)
        assert isinstance(reply, StreamReply), reply
        return [frame.data for frame in reply.frames]

    def undisturbed(self) -> bytes:
        """What a client gets without Seawall."""
        return b"".join(self.stream(self.path, orjson.dumps(self.asked), 0))

    def client_gets(self, cuts: Sequence[int]) -> bytes:
        """What the client gets when attempt n is cut after `cuts[n]` bytes; `UNRESUMED` at its end for a typed error.

        The first attempt is cut after its first content at the soonest: what breaks before is not resumed but retried.
        """
        return asyncio.run(self._client_gets(cuts))

    async def _client_gets(self, cuts: Sequence[int]) -> bytes:
        body = orjson.dumps(self.asked)
        facts = parse_body(self.path, "application/json", body)
        resumption = Resumption.of(self.path, self.path.encode(), facts)
        if resumption is None:
            return UNRESUMED
        dialect = dialect_for(self.kind)
        sent = resumption.body(body, dialect)
        attempt: Any = self._attempt(self.path, sent)
        passage: Passage = resumption.passage(attempt)
        path, out = self.path, b""
        for number in range(len(cuts) + 1):
            data = b"".join(self.stream(path, sent, number))
            cut = cuts[number] % (len(data) + 1) if number < len(cuts) else len(data)
            if number == 0:
                cut = max(cut, self._first_content(data))
            scanner = FrameScanner()
            try:
                out += passage.feed(scanner.feed(data[:cut]))
            except DivergedError:
                return out + UNRESUMED
            if passage.complete or self._is_finished(data[:cut], path):
                ended = any(terminal in out for terminal in shape_for(self.path).terminal)
                return out if ended else out + passage.closing()
            if not resumption.broke(attempt, passage):
                return out + UNRESUMED
            attempt = self._attempt("", b"")
            order = (
                await resumption.order(attempt.candidate, self._text_of) if resumption.fits(attempt.candidate) else None
            )
            if order is None:
                return out + UNRESUMED
            path, sent, passage = order.path, order.body, order.passage
        raise AssertionError("an undisturbed attempt did not end")

    def _attempt(self, path: str, body: bytes) -> Any:
        endpoint = SimpleNamespace(dialect=dialect_for(self.kind))
        candidate = SimpleNamespace(endpoint=endpoint, model=None)
        return SimpleNamespace(candidate=candidate, endpoint=endpoint, body=body, shape=shape_for(path))

    async def _text_of(self, ids: Sequence[int]) -> str | None:
        return detokenize(ids) if self.detokenizes else None

    def _first_content(self, data: bytes) -> int:
        shape, end = shape_for(self.path), 0
        for frame in split(data):
            end += len(frame)
            if (document := document_of(frame)) is not None and shape.has_content(document):
                break
        return min(end, len(data))

    @staticmethod
    def _is_finished(data: bytes, path: str) -> bool:
        whole = split(FrameScanner().feed(data))
        return any(document is not None and shape_for(path).finished(document) for document in map(document_of, whole))


@dataclass(frozen=True)
class Seen:
    """What a client makes of a stream."""

    text: str
    finish_reasons: tuple[str, ...]
    stop_reasons: tuple[Any, ...]
    usage: Any
    done: bool
    heads: int
    roles: int
    ids: tuple[int, ...]

    @classmethod
    def of(cls, stream: bytes) -> Seen:
        """Reads a stream as a client does."""
        frames = [frame[6:] for frame in stream.split(b"\n\n") if frame.startswith(b"data: ")]
        documents = [orjson.loads(frame) for frame in frames if frame != b"[DONE]"]
        choices = [choice for document in documents for choice in document["choices"]]
        return cls(
            "".join(c.get("text") or c.get("delta", {}).get("content") or "" for c in choices),
            tuple(c["finish_reason"] for c in choices if c["finish_reason"]),
            tuple(c.get("stop_reason") for c in choices if c["finish_reason"]),
            next((d["usage"] for d in reversed(documents) if d.get("usage")), None),
            frames[-1:] == [b"[DONE]"] and frames.count(b"[DONE]") == 1,
            len({(d["id"], d["created"], d["model"], d["object"]) for d in documents}),
            sum("role" in c.get("delta", {}) for c in choices),
            tuple(token for c in choices for token in c.get("token_ids") or ()),
        )


def whole(reply: Reply | StreamReply) -> Any:
    """The JSON of a whole answer."""
    assert isinstance(reply, Reply)
    return orjson.loads(reply.body)
