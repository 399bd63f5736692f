"""The table of error kinds: what the HTTP contract says of each, and which one speaks for a total failure.

Messages say what happened and what to do, and hold nothing internal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policies.outcome import ErrorKind


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

#: Causes within a kind that need other words. Only the operator can mend them, so none is retryable.
CODE_MESSAGES: Mapping[str, str] = {
    "backend_credentials_rejected": (
        "The gateway's own credentials were refused by the model's server. Your API key is not at fault: "
        "tell the operator the correlation ID."
    ),
    "backend_quota_exhausted": (
        "The gateway's account with the model's provider has used up its quota. Your API key is not at fault: "
        "tell the operator the correlation ID."
    ),
    "unsupported_endpoint": (
        "This model's server does not offer this endpoint. Use another endpoint for this model, or another model."
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
