"""Which choices of a stream that has several have begun, and which have ended: the end of one is not that of all."""

from __future__ import annotations

from gateway.relay.sse import document_of, split


class Choices:
    """Those of an answer that was asked for `expected` of them, numbered from 0; a server may give fewer."""

    __slots__ = ("_asked", "_begun", "_ended")

    def __init__(self, expected: int) -> None:
        self._asked = range(expected)
        self._begun: set[object] = set()
        self._ended: set[object] = set()

    def note(self, frames: bytes) -> None:
        """Takes note of whole frames."""
        for frame in split(frames):
            document = document_of(frame)
            choices = document.get("choices") if document is not None else None
            for choice in choices if isinstance(choices, list) else ():
                if isinstance(choice, dict) and (index := choice.get("index")) in self._asked:
                    self._begun.add(index)
                    if choice.get("finish_reason"):
                        self._ended.add(index)

    @property
    def unended(self) -> bool:
        """Whether one that has begun, or any at all, has not said why it ends."""
        return not self._begun or self._begun != self._ended

    @property
    def all_ended(self) -> bool:
        """Whether as many as were asked for have ended."""
        return len(self._ended) == len(self._asked)
