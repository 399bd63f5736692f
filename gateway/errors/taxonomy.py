"""The errors a client can meet: one table of kinds, one exception, and how a total failure is summed up.

Messages say what happened and what to do, and never hold hosts, keys, paths, stacks or a backend's raw text. The one
thing a backend says that is passed on is its reason for refusing a request, after `backends.texts.client_safe`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from policies.outcome import ErrorKind, Failure

#: Limits on what an error carries, so that no answer grows with the number of attempts or of models.
MAX_ATTEMPTS_SHOWN = 16
MAX_RETRY_AFTER = 3600.0


@dataclass(frozen=True, slots=True)
class KindSpec:
    """What the contract says of one kind. `retry_after` (seconds) is the advice when nobody gave a better one."""

    status: int
    type: str
    anthropic_type: str
    title: str
    message: str
    retry_after: float | None = None

    @property
    def is_retryable(self) -> bool:
        """Whether the client is told to try again: exactly the kinds that name a wait."""
        return self.retry_after is not None


_INVALID, _SERVER = "invalid_request_error", "server_error"

KINDS: Mapping[ErrorKind, KindSpec] = {
    ErrorKind.VALIDATION_ERROR: KindSpec(
        422,
        _INVALID,
        "invalid_request_error",
        "Request validation failed",
        "The request has invalid or missing fields. See details.field_errors and correct them.",
    ),
    ErrorKind.INVALID_INPUT: KindSpec(
        400,
        _INVALID,
        "invalid_request_error",
        "Invalid input",
        "The request was refused as invalid. Check its parameters and try again with a corrected request.",
    ),
    ErrorKind.CONTEXT_LENGTH_EXCEEDED: KindSpec(
        400,
        _INVALID,
        "invalid_request_error",
        "Context length exceeded",
        "The request is longer than the model's maximum context length. Shorten the input or lower max_tokens.",
    ),
    ErrorKind.CONTENT_FILTERED: KindSpec(
        400,
        _INVALID,
        "invalid_request_error",
        "Content filtered",
        "The request or its answer was stopped by the model's content filter. Rephrase the request.",
    ),
    ErrorKind.AUTHENTICATION_FAILED: KindSpec(
        401,
        "authentication_error",
        "authentication_error",
        "Authentication failed",
        "The API key is missing or not valid. Send a valid key as 'Authorization: Bearer <key>'.",
    ),
    ErrorKind.PERMISSION_DENIED: KindSpec(
        403,
        "permission_error",
        "permission_error",
        "Permission denied",
        "This API key may not do that. Use a key that has access, or ask the operator for it.",
    ),
    ErrorKind.MODEL_NOT_FOUND: KindSpec(
        404,
        _INVALID,
        "not_found_error",
        "Model not found",
        "The requested model does not exist here. GET /v1/models lists the models that do.",
    ),
    ErrorKind.PAYLOAD_TOO_LARGE: KindSpec(
        413,
        _INVALID,
        "request_too_large",
        "Payload too large",
        "The request body is larger than this server accepts. Send a smaller one.",
    ),
    ErrorKind.RATE_LIMITED: KindSpec(
        429,
        "rate_limit_error",
        "rate_limit_error",
        "Rate limited",
        "This API key has reached its rate limit. Wait as long as Retry-After says, then try again.",
        retry_after=1.0,
    ),
    ErrorKind.CLIENT_DISCONNECTED: KindSpec(
        499,
        _INVALID,
        "api_error",
        "Client disconnected",
        "The client closed the connection before the answer was complete.",
    ),
    ErrorKind.GENERATION_FAILED: KindSpec(
        502,
        _SERVER,
        "api_error",
        "Generation failed",
        "The model failed to produce a complete answer. This is usually temporary: try again.",
        retry_after=1.0,
    ),
    ErrorKind.BACKEND_UNREACHABLE: KindSpec(
        502,
        _SERVER,
        "api_error",
        "Backend unreachable",
        "The model's servers could not be reached. They may be restarting: try again shortly.",
        retry_after=2.0,
    ),
    ErrorKind.MODEL_OVERLOADED: KindSpec(
        503,
        _SERVER,
        "overloaded_error",
        "Model overloaded",
        "The model is at capacity right now. Wait as long as Retry-After says, then try again.",
        retry_after=2.0,
    ),
    ErrorKind.MODEL_LOADING: KindSpec(
        503,
        _SERVER,
        "overloaded_error",
        "Model loading",
        "The model is still loading. Wait as long as Retry-After says, then try again.",
        retry_after=5.0,
    ),
    ErrorKind.INFERENCE_TIMEOUT: KindSpec(
        504,
        _SERVER,
        "timeout_error",
        "Inference timeout",
        "The model did not answer in time. Try again, or ask for less: fewer tokens, fewer steps, a smaller image.",
        retry_after=1.0,
    ),
    ErrorKind.DEADLINE_EXCEEDED: KindSpec(
        504,
        _SERVER,
        "timeout_error",
        "Deadline exceeded",
        "The time that the request allowed ran out before there was an answer. Allow more, or ask for less.",
    ),
    ErrorKind.OUT_OF_MEMORY: KindSpec(
        507,
        _SERVER,
        "api_error",
        "Out of memory",
        "The request needs more GPU memory than is free. Ask for less: a shorter input, fewer tokens, a smaller image.",
    ),
    ErrorKind.MODEL_LOADING_FAILED: KindSpec(
        503,
        _SERVER,
        "api_error",
        "Model loading failed",
        "The model could not be loaded. Use another model, or tell the operator the correlation ID.",
    ),
    ErrorKind.INTERNAL_ERROR: KindSpec(
        500,
        _SERVER,
        "api_error",
        "Internal error",
        "An unexpected error happened in the gateway. Tell the operator the correlation ID.",
    ),
}

#: Causes within a kind that need other words. None of them gets better by trying again, so none is retryable.
CODE_MESSAGES: Mapping[str, str] = {
    "backend_credentials_rejected": (
        "The gateway's own credentials were refused by the model's server. Your API key is not at fault: "
        "tell the operator the correlation ID."
    ),
    "backend_quota_exhausted": (
        "The gateway's account with the model's provider has used up its quota. Your API key is not at fault: "
        "tell the operator the correlation ID."
    ),
}

#: A total failure's kind is the first of these that an attempt met. (1) What ended the request: the client has gone.
#: (2) The client's fault: only the client can mend it and every backend would say the same, so it beats any trouble
#: the backends also had; among these, the narrower statement first. (3) The client's own deadline: it cut the
#: attempts short, so what they met matters less. (4) Too little memory: the request can be made to fit. (5) What
#: waiting mends, the surer wait first: loading ends by itself. (6) What a second try may mend, by how far the attempt
#: came: one that timed out was working, one that failed was at least reached. (7) What no try mends, only when
#: nothing above was met: as long as one endpoint may recover, "try again" is the better advice.
RANKING: tuple[ErrorKind, ...] = (
    ErrorKind.CLIENT_DISCONNECTED,
    ErrorKind.AUTHENTICATION_FAILED,
    ErrorKind.PERMISSION_DENIED,
    ErrorKind.RATE_LIMITED,
    ErrorKind.CONTENT_FILTERED,
    ErrorKind.CONTEXT_LENGTH_EXCEEDED,
    ErrorKind.PAYLOAD_TOO_LARGE,
    ErrorKind.VALIDATION_ERROR,
    ErrorKind.INVALID_INPUT,
    ErrorKind.DEADLINE_EXCEEDED,
    ErrorKind.OUT_OF_MEMORY,
    ErrorKind.MODEL_LOADING,
    ErrorKind.MODEL_OVERLOADED,
    ErrorKind.INFERENCE_TIMEOUT,
    ErrorKind.GENERATION_FAILED,
    ErrorKind.BACKEND_UNREACHABLE,
    ErrorKind.MODEL_LOADING_FAILED,
    ErrorKind.MODEL_NOT_FOUND,
    ErrorKind.INTERNAL_ERROR,
)
_RANK = {kind: rank for rank, kind in enumerate(RANKING)}

#: The client's faults that a backend can find. A fallback model's may be about that model only.
_REQUEST_FAULTS = frozenset(
    {
        ErrorKind.CONTENT_FILTERED,
        ErrorKind.CONTEXT_LENGTH_EXCEEDED,
        ErrorKind.PAYLOAD_TOO_LARGE,
        ErrorKind.VALIDATION_ERROR,
        ErrorKind.INVALID_INPUT,
    }
)


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """One failed attempt as the client may see it: `backend` is its name in gateway.yaml, `ms` how long it took."""

    backend: str
    failure: Failure
    ms: float
    fallback: bool = False


class GatewayError(Exception):
    """What the client is told. Anything left out comes from the kind's row in `KINDS`.

    `retry_after` is in seconds. `details` must be JSON-serialisable and safe to show. `headers` are extra response
    headers. `attempts` is the trail, shown as `details.attempts`.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str | None = None,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        details: Mapping[str, Any] | None = None,
        is_retryable: bool | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        attempts: Sequence[FailedAttempt] = (),
    ) -> None:
        spec = KINDS[kind]
        self.kind = kind
        self.message = message or CODE_MESSAGES.get(code or "", spec.message)
        super().__init__(self.message)
        self.status = status or spec.status
        self.code = code or kind.value
        self.param = param
        self.is_retryable = spec.is_retryable and code not in CODE_MESSAGES if is_retryable is None else is_retryable
        self.retry_after = _sensible(retry_after, spec.retry_after) if self.is_retryable else None
        self.headers: Mapping[str, str] = headers or {}
        self.attempts = tuple(attempts)
        self.details: dict[str, Any] = dict(details or {})
        if self.attempts:
            self.details["attempts"] = [_trail_entry(a) for a in self.attempts[-MAX_ATTEMPTS_SHOWN:]]

    @property
    def type(self) -> str:
        """OpenAI's `type`."""
        return KINDS[self.kind].type

    @property
    def anthropic_type(self) -> str:
        """Anthropic's `error.type`."""
        return KINDS[self.kind].anthropic_type

    @property
    def title(self) -> str:
        """A short name of the kind, the same in every occurrence (RFC 9457 `title`)."""
        return KINDS[self.kind].title

    @classmethod
    def from_failure(
        cls,
        failure: Failure,
        *,
        attempts: Sequence[FailedAttempt] = (),
        retry_after: float | None = None,
    ) -> Self:
        """One failure in the client's words; `retry_after` (seconds) replaces the failure's own."""
        details = dict(failure.details)
        message = _message(failure, details)
        return cls(
            failure.kind,
            message,
            code=failure.code,
            param=failure.param,
            details=details,
            retry_after=failure.retry_after if retry_after is None else retry_after,
            attempts=attempts,
        )

    @classmethod
    def from_failures(cls, attempts: Sequence[FailedAttempt]) -> Self:
        """A total failure: the most telling attempt (see `RANKING`), with all of them in `details.attempts`.

        The wait advised is the shortest that any backend stated. Raises ValueError if there are no attempts.
        """
        telling = min(attempts, key=_telling)
        stated = [a.failure.retry_after for a in attempts if a.failure.retry_after is not None]
        return cls.from_failure(telling.failure, attempts=attempts, retry_after=min(stated) if stated else None)

    @classmethod
    def validation(cls, field_errors: Mapping[str, Sequence[str]]) -> Self:
        """422 with `details.field_errors`, such as `{"messages -> 0 -> role": ["This field is required"]}`."""
        fields = ", ".join(list(field_errors)[:3]) + (", …" if len(field_errors) > 3 else "")
        message = f"The request has invalid or missing fields: {fields}. See details.field_errors."
        return cls(
            ErrorKind.VALIDATION_ERROR,
            message if field_errors else None,
            param=_plain_param(next(iter(field_errors), None)),
            details={"field_errors": {name: list(errors) for name, errors in field_errors.items()}},
        )

    @classmethod
    def model_not_found(cls, model: str, known: Iterable[str] = ()) -> Self:
        """404 for a model no route serves; `known` are the names the caller may use."""
        shown = model if len(model) <= 100 else model[:99] + "…"
        suggestion = did_you_mean(model, known)
        hint = f" Did you mean '{suggestion}'?" if suggestion else " GET /v1/models lists the models that do."
        details = {"model": shown} | ({"suggestion": suggestion} if suggestion else {})
        return cls(
            ErrorKind.MODEL_NOT_FOUND,
            f"The model '{shown}' does not exist here.{hint}",
            param="model",
            details=details,
        )

    @classmethod
    def unknown_path(cls) -> Self:
        """404 for a path that is not served; the path is not repeated."""
        message = "This path is not served here. GET /openapi.json lists the ones that are."
        return cls(ErrorKind.INVALID_INPUT, message, status=404, code="unknown_path")

    @classmethod
    def method_not_allowed(cls, allowed: Sequence[str]) -> Self:
        """405 with the `Allow` header that RFC 9110 asks for."""
        allow = ", ".join(allowed)
        message = f"This path does not take that method. Use {allow}."
        return cls(ErrorKind.INVALID_INPUT, message, status=405, code="method_not_allowed", headers={"Allow": allow})


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name` (difflib ratio at least 0.6, case ignored), or None."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name[:200].lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def _telling(attempt: FailedAttempt) -> tuple[bool, bool, int]:
    """Sort key, most telling first.

    Two things come after every other kind: a cause that only the operator can mend, and a fallback model's refusal,
    as the request may be right for the model that was asked for.
    """
    failure = attempt.failure
    about_fallback_only = attempt.fallback and failure.kind in _REQUEST_FAULTS
    return about_fallback_only, failure.code in CODE_MESSAGES, _RANK[failure.kind]


def _trail_entry(attempt: FailedAttempt) -> dict[str, Any]:
    return {
        "backend": attempt.backend,
        "error_type": attempt.failure.kind.value,
        "status": attempt.failure.status,
        "ms": round(attempt.ms),
    }


def _sensible(stated: float | None, default: float | None) -> float | None:
    """A wait that a client can act on: finite, not negative, at most an hour; else the kind's own."""
    if stated is None or not math.isfinite(stated) or stated < 0:
        return default
    return min(stated, MAX_RETRY_AFTER)


def _message(failure: Failure, details: dict[str, Any]) -> str | None:
    """Words with the failure's facts in them, or None for the kind's own; may add to or take from `details`."""
    if failure.kind is ErrorKind.CONTEXT_LENGTH_EXCEEDED:
        return _context_length_message(details)
    reason = details.pop("backend_message", None)
    if failure.kind in (ErrorKind.INVALID_INPUT, ErrorKind.VALIDATION_ERROR) and reason:
        return f"The model's server refused the request: {reason}"
    return None


def _context_length_message(details: dict[str, Any]) -> str | None:
    details.setdefault("suggestion", "Shorten the input or lower max_tokens.")
    longest, given = details.get("max_length"), details.get("input_length")
    if longest is None:
        return None
    needs = f" and this request needs {given}" if given is not None and given > longest else ""
    return f"This model's maximum context length is {longest} tokens{needs}. {details['suggestion']}"


def _plain_param(field: str | None) -> str | None:
    """The top-level field of a field error's path: OpenAI's `param`."""
    top = (field or "").partition(" -> ")[0]
    return top if top.isidentifier() else None
