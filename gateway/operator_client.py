"""A running gateway's operators' endpoints, for the command line."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.client import HTTPException, InvalidURL
from typing import Any

_TIMEOUT = 5.0
_NO_SEAWALL = "what answers there is no Seawall"


class CannotRead(Exception):  # noqa: N818 - it says what cannot be done
    """The gateway can't be asked; the message says why."""


def get(url: str, path: str, key: str | None = None, *, member: str) -> dict[str, Any]:
    """The JSON object at a path of the gateway at `url`, which a gateway's has this `member` in. Raises CannotRead."""
    if not url.startswith(("http://", "https://")):
        raise CannotRead("the address must begin with http:// or https://")
    try:
        request = urllib.request.Request(url.rstrip("/") + path)  # noqa: S310 - the scheme is checked above
        if key is not None:
            request.add_header("Authorization", f"Bearer {key}")
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
            found = json.load(answer)
    except (OSError, ValueError, HTTPException) as error:
        raise CannotRead(_reason(error)) from None
    if not isinstance(found, dict) or member not in found:
        raise CannotRead(_NO_SEAWALL)
    return found


def printable(text: object) -> str:
    """A text without what drives terminals: clients choose models' names and IDs."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        try:
            return str(json.load(error)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return f"HTTP {error.code}"
    if isinstance(error, urllib.error.URLError):
        refused = isinstance(error.reason, ConnectionRefusedError)
        return "connection refused; is it running, and is the address right?" if refused else str(error.reason)
    if isinstance(error, OSError):
        return str(error)
    odd = isinstance(error, json.JSONDecodeError | UnicodeDecodeError | HTTPException) and not isinstance(
        error, InvalidURL
    )
    return _NO_SEAWALL if odd else "the address or the key is malformed"
