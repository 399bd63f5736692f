"""Who may read the operators' endpoints, and who may act through them.

Reading: with the operators' key, or from this machine. Acting: with the key where one is set, from this machine too;
without one, from this machine only. A web page in an operator's browser can send requests to this machine, so an act
must be JSON (which no page may send to another origin unasked), come from the gateway's own page if from any, and what
comes without the key must name this machine in `Host` (a foreign name that resolves to it is how DNS rebinding begins).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from gateway.config.base import key_digest
from gateway.errors.taxonomy import GatewayError
from gateway.identity import bearer
from policies.outcome import ErrorKind

#: Makes a browser ask for the key: any user name, the key as password.
CHALLENGE = 'Basic realm="Seawall operators", charset="UTF-8"'
_NOT_A_NAME = re.compile(r"[^\w .@+-]")
_NAME_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks: let in by `key` or as `loopback`; `name` is what they call themselves, which nobody has checked."""

    by: str
    peer: str
    name: str = ""


def may_read(headers: Mapping[str, str], peer: str | None, key: SecretStr | None) -> Actor:
    """Lets someone read. `headers` looks names up whatever their case. Raises GatewayError."""
    name, given = _presented(headers)
    if given is not None and key is not None and _matches(given, key):
        return Actor("key", peer or "", name)
    if from_loopback(headers, peer):
        if not _names_this_machine(headers.get("Host", "")):
            message = "Without the operators' key, ask for 127.0.0.1 or localhost: another name may be a forged one."
            raise GatewayError(ErrorKind.PERMISSION_DENIED, message)
        return Actor("loopback", peer or "", name)
    if key is None:
        message = "The operators' endpoints are open to this machine only. Set server.admin.key to open them to others."
        raise GatewayError(ErrorKind.PERMISSION_DENIED, message)
    message = "The operator's key is missing or not valid. Send it as 'Authorization: Bearer <key>'."
    raise GatewayError(ErrorKind.AUTHENTICATION_FAILED, message)


def may_act(headers: Mapping[str, str], peer: str | None, key: SecretStr | None) -> Actor:
    """Lets someone act. Raises GatewayError."""
    actor = may_read(headers, peer, key)
    if key is not None and actor.by != "key":
        message = "Acts need the operators' key (server.admin.key), from this machine too."
        raise GatewayError(ErrorKind.AUTHENTICATION_FAILED, message)
    if not _same_origin(headers):
        message = "This request was made by a page of another origin. Acts are taken from the gateway's own page only."
        raise GatewayError(ErrorKind.PERMISSION_DENIED, message)
    if headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        message = "An act is a JSON object. Send 'Content-Type: application/json' and a body, such as {}."
        raise GatewayError(ErrorKind.INVALID_INPUT, message, status=415, code="unsupported_media_type")
    return actor


def from_loopback(headers: Mapping[str, str], peer: str | None) -> bool:
    """Whether this machine asks: neither a proxy on it for its client, nor a foreign page in a browser on it."""
    if any(name in headers for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via")):
        return False
    if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return False
    return _is_loopback(peer or "")


def plain_name(text: str) -> str:
    """What someone calls themselves, fit for a log line."""
    return _NOT_A_NAME.sub("", text)[:_NAME_LIMIT]


def _presented(headers: Mapping[str, str]) -> tuple[str, bytes | None]:
    """(user name, secret) of a request: of `Basic` the password, else as for any key."""
    authorization = headers.get("Authorization", "")
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, secret = base64.b64decode(rest.strip(), validate=True).partition(b":")
        except (binascii.Error, ValueError):
            return "", None
        return plain_name(user.decode("utf-8", "replace")), secret
    known = {b"authorization": authorization, b"x-api-key": headers.get("X-API-Key", "")}
    return "", bearer({name: value.encode("utf-8", "replace") for name, value in known.items() if value})


def _matches(given: bytes, key: SecretStr) -> bool:
    return hmac.compare_digest(hashlib.sha256(given).digest(), key_digest(key))


def _same_origin(headers: Mapping[str, str]) -> bool:
    """Whether no browser says that another origin's page is behind the request."""
    if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        return False
    origin = headers.get("Origin")
    return origin is None or origin.partition("://")[2] == headers.get("Host", "")


def _names_this_machine(host: str) -> bool:
    """Whether a `Host` is an address, or a name that nobody outside can register: one without a dot, or localhost's."""
    name = (host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]).lower()
    if "." not in name.rstrip(".") or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback
