"""A request inside the engine: its choices as they grow, what they give its client, and how they fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from backends.workers.embedded.sampling import SamplingParams, TokenLogprob
from backends.workers.embedded.text_stream import TextStream


class OverloadedError(Exception):
    """The waiting queue is full."""


class EngineDeadError(Exception):
    """A step failed; the engine serves no more."""


class NoMemoryError(Exception):
    """A request needs more memory than there is, even alone; `used` and `available` are bytes of the device's."""

    def __init__(self, used: int, available: int) -> None:
        mib = 1 << 20
        super().__init__(f"out of memory: {used // mib} MiB are in use and {available // mib} MiB are available")
        self.used, self.available = used, available


@dataclass(frozen=True, slots=True)
class Delta:
    """What one choice has gained: text, its token ids, and at its end why it ended (`stop`, `length`)."""

    index: int
    text: str
    token_ids: Sequence[int]
    logprobs: Sequence[TokenLogprob]
    finish_reason: str | None = None
    stop_reason: str | int | None = None


@dataclass(slots=True)
class Counters:
    """What the engine has done since it began."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    finished: dict[str, int] = field(default_factory=lambda: {"stop": 0, "length": 0, "abort": 0, "error": 0})
    rejected: int = 0
    preemptions: int = 0


class Generation:
    """One request's choices. Deltas wait here until taken: at most one for every token asked for."""

    def __init__(self, sequences: Sequence[Choice], drop: Callable[[Choice], None]) -> None:
        self._drop = drop
        self._open = list(sequences)
        self._ready: list[Delta] = []
        self._changed = asyncio.Event()
        self._error: Exception | None = None
        for sequence in sequences:
            sequence.generation = self

    async def next(self) -> list[Delta]:
        """The deltas since the last call, at least one; empty once every choice has ended.

        Raises EngineDeadError, and NoMemoryError when one of the choices does not fit.
        """
        while not self._ready:
            if self._error is not None:
                raise self._error
            if not self._open:
                return []
            self._changed.clear()
            await self._changed.wait()
        taken, self._ready = self._ready, []
        return taken

    def abort(self) -> None:
        """Ends what still runs and frees its places at once. Harmless when all has ended."""
        for sequence in self._open:
            self._drop(sequence)
        self._open.clear()

    def put(self, sequence: Choice, delta: Delta) -> None:
        """The engine has more of one choice."""
        self._ready.append(delta)
        if delta.finish_reason is not None:
            self._open.remove(sequence)
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """The engine can give no more: `next` raises `error` when what there is has been taken."""
        self._error = error
        self._open.clear()
        self._changed.set()


@dataclass(slots=True, eq=False)
class Choice:
    """One growing sequence: its prompt, what was chosen, its keys and values, and how its text comes out."""

    prompt: Sequence[int]
    params: SamplingParams
    index: int
    number: int  # among the choices of its prompt
    text: TextStream
    output: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    unread: Sequence[int] = ()  # tokens the model has not seen: the prompt's rest, then each chosen token
    cache: Any = None  # the model's, while it runs
    due: float = 0.0
    admitted: bool = False
    generation: Generation | None = None

    @property
    def prefilling(self) -> bool:
        """Whether it has more to read than the token chosen last."""
        return not self.output or len(self.unread) > 1

    @property
    def capacity(self) -> int:
        """Tokens that it may come to."""
        return len(self.prompt) + self.params.max_tokens

    def preempt(self) -> None:
        """Gives its memory back; all of it is read again, and it goes on where it was."""
        self.cache = None
        self.unread = [*self.prompt, *self.output]
