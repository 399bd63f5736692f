"""Stop strings across the cut of a continued answer, found as vLLM finds them."""

from __future__ import annotations

from collections.abc import Sequence


class AmbiguousStopError(Exception):
    """Which stop string ends the answer cannot be told."""


class StopStrings:
    """Looks for stop strings in growing text and holds back what may be the beginning of one.

    `sent` is the text that the client has, `held` what follows it and was searched already; `keep` whether the stop
    string itself is part of the answer.
    The algorithm is that of vLLM (`vllm/v1/engine/detokenizer.py`): after each token the first of the list that ends
    in what is new; all but the last `longest - 1` characters go out.
    """

    __slots__ = ("_hold", "_keep", "_sent", "_stops", "_text")

    def __init__(self, stops: Sequence[str], *, keep: bool, sent: str, held: str) -> None:
        self._stops = tuple(stops)
        self._keep = keep
        longest = max(map(len, stops), default=1) - 1
        self._hold = 0 if keep else longest
        tail = sent[-longest:] if longest else ""
        self._text = tail + held
        self._sent = len(tail)

    def push(self, text: str, *, tokens: int) -> tuple[str, str | None]:
        """(text that goes out now, the stop string that ended the answer or None).

        Raises AmbiguousStopError where the text of several tokens holds several stop strings: which of them came first
        depends on where the tokens end.
        """
        self._text += text
        matches = self._matches(len(text)) if text else []
        if len(matches) > 1 and tokens > 1:
            raise AmbiguousStopError
        if matches:
            at, stop = matches[0]
            return self._text[self._sent : at + len(stop) if self._keep else at], stop
        end = max(self._sent, len(self._text) - self._hold)
        out = self._text[self._sent : end]
        drop = max(0, end - max(map(len, self._stops), default=1))
        self._text, self._sent = self._text[drop:], end - drop
        return out, None

    def _matches(self, new: int) -> list[tuple[int, str]]:
        """(place, stop string) of each that ends in the last `new` characters."""
        found = []
        for stop in self._stops:
            at = self._text.find(stop, max(0, len(self._text) - new - len(stop) + 1))
            if at >= 0:
                found.append((at, stop))
        return found

    def rest(self) -> str:
        """What was held back, at the end of an answer that no stop string ended."""
        out, self._sent = self._text[self._sent :], len(self._text)
        return out
