"""Who asks and under which name: correlation IDs, trace context, API keys."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

_CORRELATION_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_ZERO_TRACE, _ZERO_SPAN = b"0" * 32, b"0" * 16

Bits = Callable[[int], int]


def new_correlation_id(getrandbits: Bits = random.getrandbits) -> str:
    """A random UUID (RFC 9562, version 4). Not a secret, so a fast generator serves."""
    digits = f"{getrandbits(128):032x}"
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def correlation_id(headers: dict[bytes, bytes], getrandbits: Bits = random.getrandbits) -> str:
    """The request's ID: `X-Correlation-ID`, else `X-Request-ID`, else the trace id of `traceparent`, else a new UUID.

    A value with characters outside `[A-Za-z0-9._:/+=-]` or longer than 128 is replaced, so that it can stand in
    headers and log lines as it is.
    """
    given = headers.get(b"x-correlation-id") or headers.get(b"x-request-id")
    if given is None:
        trace = trace_id(headers)
        return trace if trace is not None else new_correlation_id(getrandbits)
    if _CORRELATION_ID.fullmatch(given):
        return given.decode("ascii")
    return new_correlation_id(getrandbits)


def trace_id(headers: dict[bytes, bytes]) -> str | None:
    """The trace id (32 hex digits) of a valid `traceparent` (W3C Trace Context), or None."""
    match = _traceparent(headers)
    return None if match is None else match[1].decode("ascii")


def trace_context(headers: dict[bytes, bytes]) -> tuple[int, int, bool] | None:
    """(trace id, span id, whether it is sampled) of a valid `traceparent`, or None."""
    match = _traceparent(headers)
    return None if match is None else (int(match[1], 16), int(match[2], 16), bool(int(match[3], 16) & 1))


def _traceparent(headers: dict[bytes, bytes]) -> re.Match[bytes] | None:
    value = headers.get(b"traceparent")
    if value is None:
        return None
    value = value.strip()
    match = _TRACEPARENT.fullmatch(value)
    if match is None or match[1] == _ZERO_TRACE or match[2] == _ZERO_SPAN or value[:2] == b"ff":
        return None
    return match


def traceparent(headers: dict[bytes, bytes], correlation: str, getrandbits: Bits = random.getrandbits) -> bytes:
    """The trace context for the backend: the client's own if it is valid, else one made for this request.

    A made one takes its trace id from the correlation ID when that is a UUID, so that the two find each other.
    """
    if trace_id(headers) is not None:
        return headers[b"traceparent"].strip()
    digits = correlation.replace("-", "").lower()
    if len(digits) != 32 or not all(digit in "0123456789abcdef" for digit in digits) or not digits.strip("0"):
        digits = f"{getrandbits(128) or 1:032x}"
    return f"00-{digits}-{getrandbits(64) or 1:016x}-01".encode("ascii")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One configured key: whom it stands for and what it may ask. `models` are glob patterns; empty means all."""

    name: str
    models: tuple[str, ...]
    priority: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrency: int | None

    def allows(self, model: str) -> bool:
        return not self.models or any(fnmatchcase(model, pattern) for pattern in self.models)


class KeyRing:
    """Finds the key that a request carries.

    Keys are looked up by their SHA-256, so that comparing takes no longer for a near miss than for a far one, and
    none is kept in clear.
    """

    def __init__(self, keys: Iterable[tuple[bytes, ApiKey]]) -> None:
        """`keys` are pairs of a key's SHA-256 (32 bytes) and what it stands for."""
        self._keys = dict(keys)

    @property
    def open(self) -> bool:
        """Whether no keys are configured, and anyone may ask."""
        return not self._keys

    def find(self, headers: dict[bytes, bytes]) -> ApiKey | None:
        """The key in `Authorization: Bearer` or `X-API-Key`; None when missing or unknown."""
        given = bearer(headers)
        return None if given is None else self._keys.get(hashlib.sha256(given).digest())


def bearer(headers: dict[bytes, bytes]) -> bytes | None:
    """The secret that a request carries in `Authorization: Bearer` or `X-API-Key`, or None."""
    authorization = headers.get(b"authorization")
    if authorization is not None:
        scheme, _, secret = authorization.partition(b" ")
        return secret.strip() if scheme.lower() == b"bearer" else None
    return headers.get(b"x-api-key")
