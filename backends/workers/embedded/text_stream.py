"""Text from token ids, as they come: nothing goes out that a later token could still change.

Held back are the bytes of an unfinished character and any ending that could become a stop string. Text is released
in whole tokens, so that the text and the ids a client has always end at the same place: that is what makes an answer
continuable from its ids.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence


class TextStream:
    """The text of one growing sequence. `token_bytes` gives a token's bytes; `stops` are the stop strings."""

    def __init__(
        self, token_bytes: Callable[[int], bytes], stops: Sequence[str] = (), *, keep_stop: bool = False
    ) -> None:
        self._token_bytes = token_bytes
        self._stops = tuple(stops)
        self._keep_stop = keep_stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # decoded and not yet taken
        self._tokens: list[tuple[int, int]] = []  # held tokens and where in `_held` each ends; -1: within a character
        self.stopped_by: str | None = None

    def push(self, token: int, *, may_stop: bool = True) -> bool:
        """Adds a token. True if a stop string is now complete: then the sequence has ended, and `finish` is next."""
        searched = len(self._held)
        self._held += self._decoder.decode(self._token_bytes(token))
        whole = not self._decoder.getstate()[0]
        self._tokens.append((token, len(self._held) if whole else -1))
        return may_stop and self._find_stop(searched)

    def take(self) -> tuple[str, list[int]]:
        """The text that is final by now, and its tokens; both may be empty."""
        certain = len(self._held) - self._possible_stop()
        ready = max((place for place, (_, end) in enumerate(self._tokens, 1) if 0 <= end <= certain), default=0)
        return self._release(ready)

    def finish(self) -> tuple[str, list[int]]:
        """All that is left. A character that never became whole is U+FFFD; a stop string is cut off unless kept."""
        if self.stopped_by is None:
            self._held += self._decoder.decode(b"", final=True)
        text, ids = self._held, [token for token, _ in self._tokens]
        self._held, self._tokens = "", []
        return text, ids

    def _release(self, count: int) -> tuple[str, list[int]]:
        if count == 0:
            return "", []
        end = self._tokens[count - 1][1]
        text, ids = self._held[:end], [token for token, _ in self._tokens[:count]]
        self._held = self._held[end:]
        self._tokens = [(token, place if place < 0 else place - end) for token, place in self._tokens[count:]]
        return text, ids

    def _find_stop(self, searched: int) -> bool:
        starts = ((self._held.find(stop, max(0, searched - len(stop) + 1)), stop) for stop in self._stops)
        found = min(((start, stop) for start, stop in starts if start >= 0), default=None, key=lambda match: match[0])
        if found is None:
            return False
        start, self.stopped_by = found
        self._held = self._held[: start + (len(self.stopped_by) if self._keep_stop else 0)]
        return True

    def _possible_stop(self) -> int:
        """The length of the longest ending of the held text with which a stop string begins."""
        longest = max(map(len, self._stops), default=1) - 1
        endings = (self._held[-length:] for length in range(min(longest, len(self._held)), 0, -1))
        return next((len(ending) for ending in endings if any(stop.startswith(ending) for stop in self._stops)), 0)
