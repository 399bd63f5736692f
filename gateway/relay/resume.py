"""Failover inside a stream: how a broken answer goes on at another endpoint, so that the client does not notice.

Two ways, and nothing else, since everything else would be a guess. From token ids: the other endpoint gets prompt and
answer so far as ids and goes on with the next token. By replay: a deterministic request is asked again, and nothing
goes out until the regenerated text has matched all that the client has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import orjson

from backends.continuation import COMPLETIONS, continuable, continuation, left
from gateway.relay.delivered import Delivered, Wishes
from gateway.relay.journal import Journal
from gateway.relay.passage import Continued, Passage, Plain, Replayed
from gateway.relay.sse import ANTHROPIC, OPENAI, RESPONSES, shape_for
from gateway.relay.stops import StopStrings
from gateway.relay.token_ids import asking_for_ids, says_of_ids
from gateway.validation.facts import JsonFacts

if TYPE_CHECKING:
    from backends.dialect import Dialect
    from gateway.attempt import Attempt
    from gateway.runtime import Candidate

#: Asks an endpoint for the text of token ids; None where it cannot say.
Detokenize = Callable[[Sequence[int]], Awaitable[str | None]]
_UNFINISHED = "\ufffd"
#: Bytes of UTF-8 that a character can lack at the end of a text: so many tokens may have to be made again.
_MAX_UNFINISHED = 4
#: Characters that a server may hold back beyond what its stop strings make it.
_MAX_HELD = 64
#: Fields of /v1/responses that name what only the server knows which answered before.
_KEPT_BY_ONE_SERVER = ("previous_response_id", "conversation", "background")


class Way(StrEnum):
    """How a stream is resumed."""

    TOKENS = "token_ids"
    REPLAY = "replay"


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked of the endpoint that a stream goes on at, and what becomes of its frames.

    `wasted`: tokens of the broken answer that are made again to go on from a place which is known for certain.
    """

    way: Way
    path: str
    target: bytes
    body: bytes
    passage: Passage
    wasted: int = 0


class Resumption:
    """What one streamed request needs so that its answer can be resumed. `count`: breaks that it went on after."""

    __slots__ = ("_asked", "_by_ids", "_delivered", "_path", "_says", "_target", "_wishes", "count", "source")

    def __init__(self, path: str, target: bytes, document: dict[str, Any]) -> None:
        options = document.get("stream_options")
        options = options if isinstance(options, dict) else {}
        usage = options.get("include_usage") is True
        continuous = usage and options.get("continuous_usage_stats") is True
        self._path = path
        self._target = target
        self._wishes = Wishes(document.get("return_token_ids") is True, usage, continuous)
        self._by_ids = continuable(path, document)
        self._says = says_of_ids(document)
        self._asked: dict[str, Any] = document
        self._delivered: Delivered | None = None
        self.source: Candidate | None = None
        self.count = 0

    @classmethod
    def of(cls, path: str, target: bytes, facts: object) -> Resumption | None:
        """That of a streamed request, None where it can't be resumed whatever happens."""
        if not isinstance(facts, JsonFacts) or shape_for(path) not in (OPENAI, ANTHROPIC, RESPONSES):
            return None
        resumption = cls(path, target, facts.document)
        return resumption if resumption._by_ids or _is_deterministic(path, facts.document) else None

    # -- before a break ------------------------------------------------------------------------------------------------

    def body(self, body: bytes, dialect: Dialect) -> bytes:
        """The request's body for such an endpoint: it is asked for token ids where they can be of use."""
        if not self._by_ids or self._wishes.ids or dialect.token_ids is None:
            return body
        return asking_for_ids(body, says=self._says)

    def passage(self, attempt: Attempt) -> Plain:
        """That of the first answer."""
        strip = self._by_ids and not self._wishes.ids and attempt.endpoint.dialect.token_ids is not None
        return Plain(attempt.shape, Journal(), strip=strip, path=self._path, wishes=self._wishes)

    # -- after a break -------------------------------------------------------------------------------------------------

    def broke(self, attempt: Attempt, passage: Passage) -> bool:
        """Takes over what the client has of the answer. False: it is too long, or not known well enough, to resume."""
        if isinstance(passage, Plain):
            if passage.journal is None or passage.journal.overflowed:
                return False
            self._delivered = Delivered.of(passage.journal, self._path)
            self._asked = orjson.loads(attempt.body)
            self.source = attempt.candidate
        elif isinstance(passage, Continued | Replayed):
            self._delivered = passage.delivered
        known = attempt.endpoint.dialect.token_ids
        assert self._delivered is not None
        self._delivered.aligned = self._delivered.aligned and known is not None and known.aligned
        return bool(self._delivered.head or self._delivered.typed) and any(self._delivered.texts.values())

    def way(self, candidate: Candidate) -> Way | None:
        """How the answer can go on there, None where it can't. Only the same model may go on with it."""
        delivered, source = self._delivered, self.source
        if delivered is None or source is None or candidate.model != source.model:
            return None
        there, here = candidate.endpoint.dialect.token_ids, source.endpoint.dialect.token_ids
        known = self._by_ids and delivered.plain and delivered.tracked and bool(delivered.prompt)
        if known and there is not None and here is not None:
            seeded = self._asked.get("seed") is not None and self._asked.get("temperature") != 0
            if not seeded or (there.seeded and here.seeded):
                return Way.TOKENS
        return Way.REPLAY if self._can_replay(delivered) else None

    def fits(self, candidate: Candidate) -> bool:
        """Whether there is a way there."""
        return self.way(candidate) is not None

    async def order(self, candidate: Candidate, detokenize: Detokenize) -> Order | None:
        """What to ask of an endpoint that there is a `way` for; None when it turns out that it would not be exact."""
        if self.way(candidate) is Way.TOKENS:
            order = await self._continuation(candidate, detokenize)
            if order is not None:
                return order
        assert self._delivered is not None
        return self._replay(candidate) if self._can_replay(self._delivered) else None

    def _can_replay(self, delivered: Delivered) -> bool:
        """Whether asking again must give the same text, and nothing went out that it could not be compared with."""
        comparable = delivered.textual and not self._wishes.ids and not self._asked.get("logprobs")
        return comparable and _is_deterministic(self._path, self._asked)

    def _replay(self, candidate: Candidate) -> Order:
        delivered = self._delivered
        assert delivered is not None
        asked = self._asked | {"model": candidate.model or self._asked["model"]}
        strip = not self._wishes.ids
        if strip:
            asked.pop("return_token_ids", None)
        body = orjson.dumps(asked)
        if self._by_ids and strip and candidate.endpoint.dialect.token_ids is not None:
            body = asking_for_ids(body, says=False)
        passage = Replayed(delivered, shape_for(self._path), strip=strip, wishes=self._wishes)
        return Order(Way.REPLAY, self._path, self._target, body, passage)

    async def _continuation(self, candidate: Candidate, detokenize: Detokenize) -> Order | None:
        delivered, asked = self._delivered, self._asked
        assert delivered is not None
        cut = await self._cut(delivered, detokenize)
        if cut is None:
            return None
        made, held = cut
        wasted = len(delivered.ids) - len(made)
        if wasted and self._wishes.ids:
            return None
        rest = left(self._path, asked, len(made))
        if rest is not None and rest < 1:
            return None
        body = continuation(
            self._path, asked, delivered.prompt, made, model=candidate.model or str(self._asked["model"])
        )
        stops = None
        if (strings := _stops(asked)) and not delivered.aligned:
            if body.get("min_tokens"):
                return None  # stop strings count from a certain token on, and frames can hold several
            keep = bool(asked.get("include_stop_str_in_output"))
            stops = StopStrings(strings, keep=keep, sent=delivered.text, held=held)
            body.pop("stop", None)
            held = ""
        delivered.ids = list(made)
        passage = Continued(delivered, self._wishes, carried=held, stops=stops)
        return Order(Way.TOKENS, COMPLETIONS, COMPLETIONS.encode(), orjson.dumps(body), passage, wasted)

    async def _cut(self, delivered: Delivered, detokenize: Detokenize) -> tuple[list[int], str] | None:
        """The ids to go on from, and their text that has not gone out; None when that can't be told for certain.

        A server tells a token's id when it is made, but holds its text back while that may be the beginning of a stop
        string or is only a part of a character. Tokens no text has come of are made again. Where text can be behind
        the ids for other reasons, the text of the ids is asked for and compared with what was sent.
        """
        sure = delivered.ids[: delivered.visible]
        strings = _stops(self._asked)
        if delivered.aligned or (not strings and delivered.last_tokens == 1):
            return sure, ""
        made = delivered.ids
        longest = max(map(len, strings), default=1) - 1
        for _ in range(_MAX_UNFINISHED):
            text = await detokenize(made)
            if text is None or not text.startswith(delivered.text):
                return None
            held = text[len(delivered.text) :]
            if not held.endswith(_UNFINISHED):
                return (made, held) if len(held) <= longest + _MAX_HELD else None
            made = made[:-1]
        return None


def _is_deterministic(path: str, asked: dict[str, Any]) -> bool:
    """Whether a request asks for one answer that is the same every time, and at every endpoint."""
    if any(asked.get(name) for name in _KEPT_BY_ONE_SERVER):
        return False
    if asked.get("n") not in (None, 1) or asked.get("best_of") not in (None, 1) or asked.get("logprobs"):
        return False
    seeded = asked.get("seed") is not None and shape_for(path) is not ANTHROPIC  # Messages have no seed
    return asked.get("temperature") == 0 or asked.get("top_k") == 1 or seeded


def _stops(asked: dict[str, Any]) -> list[str]:
    stop = asked.get("stop") or []
    return [stop] if isinstance(stop, str) else [each for each in stop if isinstance(each, str)]
