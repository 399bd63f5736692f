"""Who asks and under which name: correlation IDs, trace context, API keys."""

from __future__ import annotations

import hashlib
import hmac
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import translate
from ipaddress import IPv6Address, ip_address, ip_network

_CORRELATION_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
#: Bytes of a `traceparent` of version 00.
_TRACEPARENT_LENGTH = 55
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")
_ZERO_TRACE, _ZERO_SPAN = b"0" * 32, b"0" * 16

Bits = Callable[[int], int]


def new_correlation_id(getrandbits: Bits = random.getrandbits) -> str:
    """A random UUID (RFC 9562, version 4). Not a secret, so a fast generator serves."""
    number = getrandbits(128)
    digits = f"{number:032x}"
    variant = "89ab"[number >> 60 & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def identity_lines(correlation_id: str) -> bytes:
    """The header lines by which a request is found again, in a backend's logs and by its client."""
    name = correlation_id.encode("ascii")
    return b"x-correlation-id: %b\r\nx-request-id: %b\r\n" % (name, name)


def correlation_id(headers: dict[bytes, bytes], getrandbits: Bits = random.getrandbits) -> str:
    """The request's ID: `X-Correlation-ID`, else `X-Request-ID`, else the trace id of `traceparent`, else a new UUID.

    A value with characters outside `[A-Za-z0-9._:/+=-]` or longer than 128 is replaced, so that it can stand in
    headers and log lines as it is.
    """
    return given_id(headers) or new_correlation_id(getrandbits)


def given_id(headers: dict[bytes, bytes]) -> str | None:
    """The ID that the client gave, by the same rules; None where it gave none or one that is replaced."""
    given = headers.get(b"x-correlation-id") or headers.get(b"x-request-id")
    if given is None:
        return trace_id(headers)
    return given.decode("ascii") if _CORRELATION_ID.fullmatch(given) else None


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
    if value[:2] == b"00" and len(value) != _TRACEPARENT_LENGTH:
        return None  # only later versions may have more fields
    return match


def given_traceparent(headers: dict[bytes, bytes]) -> bytes | None:
    """The client's `traceparent` if it is valid, else None."""
    match = _traceparent(headers)
    return None if match is None else match[0]


def new_traceparent(correlation: str, getrandbits: Bits = random.getrandbits, *, own: bool = False) -> bytes:
    """A trace context made for a request.

    It takes its trace id from the correlation ID when that is a UUID, so that the two find each other. `own`: it is one
    of `new_correlation_id`.
    """
    digits = correlation.replace("-", "")
    if not own and _TRACE_ID.fullmatch(digits := digits.lower()) is None:
        digits = f"{getrandbits(128) or 1:032x}"
    return b"00-%b-%016x-01" % (digits.encode("ascii"), getrandbits(64) or 1)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One configured key: whom it stands for and what it may ask. `models` are glob patterns; empty means all."""

    name: str
    models: tuple[str, ...]
    priority: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrency: int | None
    _allowed: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # One pattern for each key, compiled once: fnmatch's own cache thrashes where there are many keys.
        object.__setattr__(self, "_allowed", re.compile("|".join(map(translate, self.models or ("*",)))))

    def allows(self, model: str) -> bool:
        return self._allowed.match(model) is not None


class KeyRing:
    """Finds the key that a request carries, in the same time for any number of keys.

    Keys are looked up by their SHA-256 and compared in constant time: nothing that can be measured from outside depends
    on how near a guess comes. None is kept in clear. `open`: no keys are configured, and anyone may ask.
    """

    def __init__(self, keys: Iterable[tuple[bytes, ApiKey]]) -> None:
        """`keys` are pairs of a key's SHA-256 (32 bytes) and what it stands for."""
        self._keys = {digest: (digest, key) for digest, key in keys}
        self._nobody = (bytes(32), None)
        self.open = not self._keys

    def find(self, headers: dict[bytes, bytes]) -> ApiKey | None:
        """The key in `Authorization: Bearer` or `X-API-Key`; None when missing or unknown."""
        given = bearer(headers)
        if given is None:
            return None
        digest = hashlib.sha256(given).digest()
        known, key = self._keys.get(digest, self._nobody)
        return key if hmac.compare_digest(known, digest) else None


class TrustedProxies:
    """Who a request comes from where proxies stand in front (`server.trusted_proxies`)."""

    def __init__(self, networks: Iterable[str]) -> None:
        """`networks` are CIDRs. Raises ValueError."""
        self._networks = [ip_network(network) for network in networks]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def client(self, peer: str, headers: dict[bytes, bytes]) -> str:
        """The address of the client: the peer's, or if that is a trusted proxy what it says.

        `X-Forwarded-For` is read from its end, where the nearest proxy wrote, to the first address that is not a
        trusted proxy's. Anyone could have written what stands before that, and all of it if the peer isn't trusted.
        """
        given = headers.get(b"x-forwarded-for")
        if given is None or not self._trusts(peer):
            return peer
        client = peer
        for entry in reversed(given.split(b",")[-_MAX_PROXIES:]):
            address = _address(entry)
            if address is None:
                return client
            client = address
            if not self._trusts(client):
                return client
        return client

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self._networks if network.version == parsed.version)


#: Proxies in a row that are looked back through.
_MAX_PROXIES = 16


def _address(entry: bytes) -> str | None:
    """One address of `X-Forwarded-For`, with any port taken off; None if it is none."""
    text = entry.strip().decode("latin-1")
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ip_address(text)) if "%" not in text else None  # a zone of IPv6 could be any text
    except ValueError:
        return None


def bearer(headers: dict[bytes, bytes]) -> bytes | None:
    """The secret that a request carries in `Authorization: Bearer` or `X-API-Key`, or None."""
    authorization = headers.get(b"authorization")
    if authorization is not None:
        scheme, _, secret = authorization.partition(b" ")
        return secret.strip() if scheme.lower() == b"bearer" else None
    return headers.get(b"x-api-key")
