"""What became of an attempt: the vocabulary that every policy and dialect shares.

A backend's dialect classifies an answer ONCE, right where the bytes arrive, into success or a `Failure`. Policies
read the classified failure and never an HTTP status. The table is the error taxonomy of the HTTP contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any


class ErrorKind(StrEnum):
    """The error types of the HTTP contract (`error_type` in error bodies, metric labels and logs)."""

    VALIDATION_ERROR = "validation_error"
    INVALID_INPUT = "invalid_input"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    CONTENT_FILTERED = "content_filtered"
    AUTHENTICATION_FAILED = "authentication_failed"
    PERMISSION_DENIED = "permission_denied"
    MODEL_NOT_FOUND = "model_not_found"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    RATE_LIMITED = "rate_limited"
    CLIENT_DISCONNECTED = "client_disconnected"
    GENERATION_FAILED = "generation_failed"
    BACKEND_UNREACHABLE = "backend_unreachable"
    MODEL_OVERLOADED = "model_overloaded"
    MODEL_LOADING = "model_loading"
    INFERENCE_TIMEOUT = "inference_timeout"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    OUT_OF_MEMORY = "out_of_memory"
    MODEL_LOADING_FAILED = "model_loading_failed"
    INTERNAL_ERROR = "internal_error"


class Blame(Enum):
    """Whom a failure counts against in breakers and outlier ejection."""

    BY_KIND = "by_kind"  # what `CONSEQUENCES` says; never seen on a `Failure` once it is made
    NONE = "none"  # the client's fault or ours: neither opens nor closes a breaker
    SOFT = "soft"  # alive and busy: neutral for a breaker, but the balancer turns away for a while
    ENDPOINT = "endpoint"


class Elsewhere(Enum):
    """Where a failed attempt may be tried again."""

    BY_KIND = "by_kind"  # as for `Blame`
    NO = "no"
    YES = "yes"  # the same tier's other endpoints, then the next tiers
    LONGER_CONTEXT = "longer_context"  # only a tier whose context is longer
    NEXT_TIER = "next_tier"  # not this model's other endpoints: they would say the same
    ONCE = "once"  # one more endpoint: whether the request or the server is at fault shows there


_ENDPOINT_FAULT = (Elsewhere.YES, Blame.ENDPOINT)
_BUSY = (Elsewhere.YES, Blame.SOFT)
_NOT_BACKENDS_FAULT = (Elsewhere.NO, Blame.NONE)

#: Default consequences of each kind; a dialect may override them on a `Failure` when it knows better.
CONSEQUENCES: Mapping[ErrorKind, tuple[Elsewhere, Blame]] = {
    ErrorKind.VALIDATION_ERROR: _NOT_BACKENDS_FAULT,
    ErrorKind.INVALID_INPUT: _NOT_BACKENDS_FAULT,
    ErrorKind.CONTEXT_LENGTH_EXCEEDED: (Elsewhere.LONGER_CONTEXT, Blame.NONE),
    ErrorKind.CONTENT_FILTERED: _NOT_BACKENDS_FAULT,
    ErrorKind.AUTHENTICATION_FAILED: _NOT_BACKENDS_FAULT,
    ErrorKind.PERMISSION_DENIED: _NOT_BACKENDS_FAULT,
    ErrorKind.MODEL_NOT_FOUND: (Elsewhere.NEXT_TIER, Blame.ENDPOINT),
    ErrorKind.PAYLOAD_TOO_LARGE: _NOT_BACKENDS_FAULT,
    ErrorKind.RATE_LIMITED: _NOT_BACKENDS_FAULT,
    ErrorKind.CLIENT_DISCONNECTED: _NOT_BACKENDS_FAULT,
    ErrorKind.GENERATION_FAILED: _ENDPOINT_FAULT,
    ErrorKind.BACKEND_UNREACHABLE: _ENDPOINT_FAULT,
    ErrorKind.MODEL_OVERLOADED: _BUSY,
    ErrorKind.MODEL_LOADING: _BUSY,
    ErrorKind.INFERENCE_TIMEOUT: _ENDPOINT_FAULT,
    ErrorKind.DEADLINE_EXCEEDED: _NOT_BACKENDS_FAULT,
    ErrorKind.OUT_OF_MEMORY: _ENDPOINT_FAULT,
    ErrorKind.MODEL_LOADING_FAILED: _ENDPOINT_FAULT,
    ErrorKind.INTERNAL_ERROR: _NOT_BACKENDS_FAULT,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """A classified failed attempt.

    `evidence` is what the backend said, for operators' logs only (bounded, may hold prompts or hosts: never sent to
    a client). `details` are facts safe to show a client, such as `input_length` and `max_length` in tokens.
    `retry_after` is in seconds. `code` overrides the error body's `code` where one kind has several causes.
    """

    kind: ErrorKind
    evidence: str = ""
    status: int | None = None
    retry_after: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    code: str | None = None
    param: str | None = None
    elsewhere: Elsewhere = Elsewhere.BY_KIND
    blame: Blame = Blame.BY_KIND

    def __post_init__(self) -> None:
        elsewhere, blame = CONSEQUENCES[self.kind]
        if self.elsewhere is Elsewhere.BY_KIND:
            object.__setattr__(self, "elsewhere", elsewhere)
        if self.blame is Blame.BY_KIND:
            object.__setattr__(self, "blame", blame)
