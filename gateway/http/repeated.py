"""Clients and backends repeat themselves: a head that differs from one before in nothing but the length of the body.

Such a head is recognised by its bytes and need not be parsed and checked again. Remembered are only heads written in
the one form that leaves no room for two readings: what the parser made of them, written down again, is what came.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

H = TypeVar("H")

#: Digits that a Content-Length may have here.
_DIGITS = 10
#: Heads unlike any before, one after the other, after which a connection's client is not expected to repeat one.
MOST_UNLIKE = 4


class RepeatedHead(Generic[H]):
    """The bytes before and after the digits of the Content-Length, and what they say."""

    __slots__ = ("_after", "_before", "head")

    def __init__(self, head: H, before: bytes, after: bytes) -> None:
        self.head = head
        self._before = before
        self._after = after

    def find(self, data: bytes) -> tuple[int, int] | None:
        """(length of the body, length of the head) where `data` begins with this head, whole; else None."""
        at = len(self._before)
        if data[:at] != self._before:  # twice as fast as `startswith`
            return None
        end = data.find(b"\r", at, at + _DIGITS + 1)
        digits = data[at:end]
        size = end + len(self._after)
        if end < 0 or not digits.isdigit() or data[end:size] != self._after:
            return None
        return int(digits), size


def repeated(head: H, first: bytes, lines: Sequence[tuple[bytes, bytes]], data: bytes) -> RepeatedHead[H] | None:
    """The head with which `data` begins, to be recognised when it comes again; None where that would not be safe.

    `first` is its first line with the line's end, `lines` are its fields as the parser gave them.
    """
    at = next((at for at, (name, _) in enumerate(lines) if name.lower() == b"content-length"), None)
    if at is None:
        return None
    written = [b"%b: %b\r\n" % line for line in lines]
    name, digits = lines[at]
    before = b"%b%b%b: " % (first, b"".join(written[:at]), name)
    after = b"\r\n%b\r\n" % b"".join(written[at + 1 :])
    found = RepeatedHead(head, before, after)
    return (
        found
        if digits.isdigit() and found.find(data) == (int(digits), len(before) + len(digits) + len(after))
        else None
    )
