"""The protocol between the gateway and one kind of model server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from policies.outcome import Failure


class AnswerHead(Protocol):
    """The head of a backend's answer, as a dialect looks at it."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case; the last of a repeated header wins."""

    @property
    def content_type(self) -> str:
        """The media type in lower case without parameters, or an empty string."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """An `AnswerHead` of given values."""

    status: int
    headers: Mapping[str, str]

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


class Usage(NamedTuple):
    """Tokens of one answer, as its server counted them."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class TokenIds:
    """What a kind of server that tells token ids (`return_token_ids`) and takes them as a prompt promises of them.

    `aligned`: text and ids of a frame always end at the same place, also where a stop string may have begun.
    `seeded`: a seeded answer, too, goes on from its ids as it would have undisturbed.
    """

    aligned: bool = False
    seeded: bool = False


class Dialect(Protocol):
    """How one kind of model server says things. Stateless and shared by all endpoints of its kind."""

    name: str
    health_path: str
    """Answers 200 when the server can serve."""
    metrics_path: str | None
    token_ids: TokenIds | None
    """None: a broken stream cannot be continued there from its token ids."""
    tells_finish: bool
    """Whether each of its streams says why the answer ends before it ends; where not, `[DONE]` alone is believed."""

    def classify(self, path: str, head: AnswerHead, body: bytes) -> Failure | None:
        """Judges a whole answer to a request for `path`: None if good, else what went wrong.

        Called for every error answer and every complete (non-stream) 200. `body` is bounded by the caller.
        """

    def classify_frame(self, data: bytes) -> Failure | None:
        """Judges the data of one server-sent event: a failure, or None if it is content.

        The caller asks only about events that hold the bytes `"error"`.
        """

    def usage(self, body: bytes) -> Usage | None:
        """Tokens from a whole answer or from a stream's frame data that carries usage; None where there are none."""
