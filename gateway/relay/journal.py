"""The frames of a stream as they came, kept so that a broken stream can be continued, and read only then."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from gateway.relay.sse import split

#: Bytes of frames kept for one stream, some 60,000 tokens. A longer answer is not resumed.
MAX_JOURNAL = 16 * 1024 * 1024
#: Bytes kept compressed for one stream.
MAX_STORED = 2 * 1024 * 1024
#: Frames are much like each other: a page of them shrinks to about a tenth.
_PAGE = 32 * 1024


class Journal:
    """Whole frames in order. Beyond its bounds it empties itself and stays `overflowed`."""

    __slots__ = ("_open", "_open_size", "_pages", "_size", "_stored", "overflowed")

    def __init__(self) -> None:
        self._pages: list[bytes] = []
        self._open: list[bytes] = []
        self._open_size = self._size = self._stored = 0
        self.overflowed = False

    def add(self, frames: bytes) -> None:
        """Keeps whole frames."""
        self._open.append(frames)
        self._open_size += len(frames)
        if self._open_size > _PAGE:
            self._turn()

    def frames(self) -> Iterator[bytes]:
        """Single frames, each with its end."""
        for page in self._pages:
            yield from split(zlib.decompress(page))
        for frames in self._open:
            yield from split(frames)

    def _turn(self) -> None:
        self._size += self._open_size
        if not self.overflowed:
            page = zlib.compress(b"".join(self._open), 1)
            self._stored += len(page)
            self._pages.append(page)
            if self._size > MAX_JOURNAL or self._stored > MAX_STORED:
                self.overflowed = True
                self._pages.clear()
        self._open.clear()
        self._open_size = 0
