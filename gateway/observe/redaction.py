"""Keeps secrets and prompts out of whatever is written down.

By name, for structured values (`redact`), and by look, for a finished line of text (`redact_line`), as a secret may
stand in an exception's message or in what a client sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

REDACTED = "[redacted]"
OMITTED = "[omitted]"
_MAX_DEPTH = 6

_SECRET_NAMES = frozenset(
    {"cookie", "set-cookie", "passwd", "token", "access_token", "refresh_token", "id_token", "credentials"}
)
_SECRET_ENDINGS = ("api_key", "api-key", "apikey", "secret", "secret_key", "password", "authorization", "auth_token")
_PROMPT_NAMES = frozenset(
    {"prompt", "prompts", "negative_prompt", "messages", "input", "inputs", "content", "text", "body", "answer"}
    | {"completion", "generated_text"}
)

# Header lines and reprs of headers in a text: a telling name, a colon or equals sign, a value.
_LABELLED = re.compile(
    r"""((?:api[-_]?key|password|secret|cookie|authorization)["']?\s*[:=]\s*["']?(?:bearer\s+|basic\s+)?)[^\s"',&}]+""",
    re.IGNORECASE,
)
_ALONE = rb"(?<![A-Za-z0-9]%s)"
_KEY = rb"[A-Za-z0-9_\-]{8,}"
_WORD = rb"[^\s&,\"'\\]+"


def _key_prefix(prefix: bytes) -> tuple[bytes, re.Pattern[bytes]]:
    return prefix, re.compile(b"(" + prefix + b")" + _ALONE % prefix + _KEY)


# What secrets look like: known prefixes of API keys, JWTs, credentials in headers, queries and a URL's user info. Each
# has a literal that it begins with, which is looked for first (an expression alone would take 20 times as long), and
# keeps its first group. None takes in a quote or a backslash, so that a line of JSON stays well formed.
_LOOKS = (
    *map(_key_prefix, (b"sk-", b"sk_", b"hf_", b"ghp_", b"gho_", b"ghs_", b"ghu_", b"github_pat_", b"glpat-")),
    *map(_key_prefix, (b"xoxa-", b"xoxb-", b"xoxp-", b"xoxr-", b"xoxs-", b"AKIA", b"AIza")),
    (b"eyJ", re.compile(rb"(eyJ)[A-Za-z0-9_\-]{8,512}\.[A-Za-z0-9_\-.]+")),
    (b"earer ", re.compile(b"(earer )" + _WORD)),
    (b"asic ", re.compile(rb"(asic )[A-Za-z0-9+/=_\-]{8,}")),
    (b"://", re.compile(rb"(://)[^\s/@\"'\\]++(?=@)")),
    (
        b"=",
        re.compile(
            rb"(=)(?:(?<=[Kk][Ee][Yy]=)|(?<=[Tt]oken=)|(?<=[Ss]ecret=)|(?<=[Pp]assword=)|(?<=[Ss]ignature=))" + _WORD
        ),
    ),
)
#: Random UUIDs have no hint in them.
_HARMLESS = re.compile("[0-9a-f-]*")
#: Characters of a text that is worth remembering.
_SHORT = 200
_HINTS = tuple(hint.decode() for hint, _ in _LOOKS)
_KEPT = rb"\1" + REDACTED.encode()


def redact(value: Any, *, prompts: bool, depth: int = 0) -> Any:
    """A copy of a structured value without secrets and, unless `prompts`, without what users and models wrote."""
    if depth >= _MAX_DEPTH:
        return OMITTED
    if isinstance(value, Mapping):
        return {name: _member(name, member, prompts=prompts, depth=depth) for name, member in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(member, prompts=prompts, depth=depth + 1) for member in value]
    if value is None or isinstance(value, int | float | datetime):
        return value
    return _LABELLED.sub(rf"\1{REDACTED}", as_text(value))


def as_text(value: Any) -> str:
    """`str(value)`, whatever the value's own `__str__` does."""
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


def might_hold_secret(text: str) -> bool:
    """Whether `redact_line` could find anything in the text; False is certain."""
    if _HARMLESS.fullmatch(text):
        return False
    return _remembered(text) if len(text) <= _SHORT else _has_hint(text)


def _has_hint(text: str) -> bool:
    for hint in _HINTS:  # noqa: SIM110 (any() with a generator takes twice as long, once per request)
        if hint in text:
            return True
    return False


#: Clients ask for the same paths and models again and again.
_remembered = lru_cache(1024)(_has_hint)


def redact_line(line: bytes) -> bytes:
    """The line with everything that looks like a secret replaced; the same object if nothing does."""
    for hint, look in _LOOKS:
        if hint in line:
            line = look.sub(_KEPT, line)
    return line


def _member(name: Any, value: Any, *, prompts: bool, depth: int) -> Any:
    lower = name.lower() if isinstance(name, str) else ""
    if value is None or isinstance(value, bool):
        return value
    if lower in _SECRET_NAMES or lower.endswith(_SECRET_ENDINGS):
        return REDACTED
    if lower in _PROMPT_NAMES and not prompts:
        return OMITTED
    return redact(value, prompts=prompts, depth=depth + 1)
