"""Removes from text what no prompt means and what breaks logs, tokenizers and C strings: control characters.

Removed: C0 (null bytes among them) but for tab, line feed and carriage return; DEL; C1; lone surrogates. Kept:
everything else. Bidirectional controls stay, since right-to-left text needs them and a model is not a terminal; so do
zero-width joiners, which emoji and Indic scripts need.
"""

from __future__ import annotations

import re
from typing import Any

Path = tuple[int | str, ...]

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_RAW_C1 = re.compile(rb"\xc2[\x80-\x9f]")
_ESCAPED = re.compile(rb"\\(?:u00[014-9]|b|f)")  # letters too: body.py looks for them in the same scan
_SURROGATE = re.compile(
    rb"(\\[^u]"  # an escaped backslash, after which a `u` is only a letter
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"  # a pair is one character
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)


def may_hold_controls(body: bytes) -> bool:
    """Whether a valid JSON body could hold a control character, or an escaped ASCII letter; False is certain.

    JSON allows the C0 characters in strings only as escapes, so for most bodies this is three `memchr`s (`in`
    first takes the bytes for a number, and drops an exception each time).
    """
    return (
        (body.find(b"\\") >= 0 and _ESCAPED.search(body) is not None)
        or body.find(b"\x7f") >= 0
        or (not body.isascii() and body.find(b"\xc2") >= 0 and _RAW_C1.search(body) is not None)
    )


def drop_lone_surrogates(body: bytes) -> bytes:
    """The JSON without escapes such as `\\ud83d` that lack their other half: half an emoji, cut by a client."""
    return _SURROGATE.sub(rb"\1", body)


def sanitise(text: str) -> str:
    """The text without control characters; the same object if there are none."""
    return _CONTROL.sub("", text) if _CONTROL.search(text) else text


def sanitise_value(value: Any, at: Path = (), emptied: list[Path] | None = None) -> Any:
    """A JSON value with every string in it sanitised, keys excepted; the same object if nothing changes.

    Where a string had nothing but control characters its path, below `at`, is added to `emptied`.
    """
    if isinstance(value, str):
        clean = sanitise(value)
        if value and not clean and emptied is not None:
            emptied.append(at)
        return clean
    if isinstance(value, list):
        items = [sanitise_value(item, (*at, i), emptied) for i, item in enumerate(value)]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    if isinstance(value, dict):
        fields = {name: sanitise_value(item, (*at, name), emptied) for name, item in value.items()}
        return fields if any(fields[name] is not value[name] for name in fields) else value
    return value
