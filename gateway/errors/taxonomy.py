"""The error a client is told, and how failed attempts are summed up into one.

Messages never hold hosts, keys, paths, stacks or a backend's raw text. The one
thing a backend says that is passed on is its reason for refusing a request, after `backends.texts.client_safe`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from gateway.errors.kinds import CODE_MESSAGES, KINDS, RANKING
from policies.outcome import Elsewhere, ErrorKind, Failure

#: Limits on what an error carries, so that no answer grows with the number of attempts or of models.
MAX_ATTEMPTS_SHOWN = 16
MAX_RETRY_AFTER = 3600.0


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
        doubted = sum(attempt.failure.elsewhere is Elsewhere.ONCE for attempt in attempts) == 1
        telling = min(attempts, key=lambda attempt: _telling(attempt, doubted=doubted))
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


def _telling(attempt: FailedAttempt, *, doubted: bool) -> tuple[bool, bool, int]:
    """Sort key, most telling first.

    Three things come after every other kind: a cause that only the operator can mend, a fallback model's refusal,
    as the request may be right for the model that was asked for, and a refusal in doubt that no second one confirms.
    """
    failure = attempt.failure
    unsure = doubted and failure.elsewhere is Elsewhere.ONCE
    about_fallback_only = attempt.fallback and failure.kind in _REQUEST_FAULTS
    return unsure or about_fallback_only, failure.code in CODE_MESSAGES, _RANK[failure.kind]


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
    longest, given, wanted = (details.get(k) for k in ("max_length", "input_length", "output_length"))
    suggestion = "Shorten the input or lower max_tokens."
    if longest is not None and given is not None:
        room = longest - given
        suggestion = f"Shorten the input or lower max_tokens to {room}." if room > 0 else "Shorten the input."
    elif longest is not None and wanted is not None:
        suggestion = f"Lower max_tokens: input and output together must fit into {longest} tokens."
    details.setdefault("suggestion", suggestion)
    if longest is None:
        return None
    asked = [f"{given} input tokens"] if given is not None else []
    asked += [f"{wanted} output tokens"] if wanted is not None else []
    but = f", but the request asks for {' and '.join(asked)}" if asked else ""
    return f"This model's maximum context length is {longest} tokens{but}. {details['suggestion']}"


def _plain_param(field: str | None) -> str | None:
    """The top-level field of a field error's path: OpenAI's `param`."""
    top = (field or "").partition(" -> ")[0]
    return top if top.isidentifier() else None
