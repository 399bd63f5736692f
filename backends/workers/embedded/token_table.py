"""What each token of a vocabulary stands for, in bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache


class TokenTable:
    """The bytes of every token, control tokens aside, which are shown only by `decode`."""

    def __init__(self, pieces: Sequence[bytes], special: Mapping[int, bytes]) -> None:
        self._pieces = [b"" if token in special else piece for token, piece in enumerate(pieces)]
        self._special = special
        self.longest_token = max(map(len, self._pieces))

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; empty for a control token. Raises IndexError if there is no such token."""
        return self._pieces[token]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, control tokens written out; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self._special.get(token) or self.token_bytes(token) for token in ids).decode("utf-8", "replace")


@cache
def byte_of_char() -> dict[str, int]:
    """The byte that each printable stand-in of a byte-level vocabulary (GPT-2's) means."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in set(printable))
    shifted = {chr(256 + place): byte for place, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted
