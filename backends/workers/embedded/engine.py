"""Continuous batching: requests join and leave the running batch between steps.

All state lives in the event loop; only the arithmetic of a step runs in a thread of its own. A step advances every
running sequence that is due by one token, and reads at most `PREFILL_BUDGET` prompt tokens of those that have just
come, so that a long prompt does not stop the streams of others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self

import torch

from backends.workers.embedded.model import Decoder, KVCache
from backends.workers.embedded.sampling import SamplingParams, TokenLogprob, choose
from backends.workers.embedded.text_stream import TextStream
from backends.workers.embedded.tokens import ChatTokenizer

logger = logging.getLogger(__name__)

PREFILL_BUDGET = 256


class OverloadedError(Exception):
    """The waiting queue is full."""


class EngineDeadError(Exception):
    """A step failed; the engine serves no more."""


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
    finished: dict[str, int] = field(default_factory=lambda: {"stop": 0, "length": 0, "abort": 0})
    rejected: int = 0


class Generation:
    """One request's choices. Deltas wait here until taken: at most one for every token asked for."""

    def __init__(self, engine: Engine, sequences: Sequence[_Sequence]) -> None:
        self._engine = engine
        self._open = list(sequences)
        self._ready: list[Delta] = []
        self._changed = asyncio.Event()
        self._failed = False
        for sequence in sequences:
            sequence.generation = self

    async def next(self) -> list[Delta]:
        """The deltas since the last call, at least one; empty once every choice has ended. Raises EngineDeadError."""
        while not self._ready:
            if self._failed:
                raise EngineDeadError
            if not self._open:
                return []
            self._changed.clear()
            await self._changed.wait()
        taken, self._ready = self._ready, []
        return taken

    def abort(self) -> None:
        """Ends what still runs and frees its places at once. Harmless when all has ended."""
        for sequence in self._open:
            self._engine._drop(sequence, "abort")
        self._open.clear()

    def _put(self, sequence: _Sequence, delta: Delta) -> None:
        self._ready.append(delta)
        if delta.finish_reason is not None:
            self._open.remove(sequence)
        self._changed.set()

    def _fail(self) -> None:
        self._failed = True
        self._open.clear()
        self._changed.set()


@dataclass(slots=True, eq=False)
class _Sequence:
    prompt: Sequence[int]
    params: SamplingParams
    index: int
    choice: int
    text: TextStream
    output: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    unread: Sequence[int] = ()  # tokens the model has not seen: the prompt's rest, then each chosen token
    cache: KVCache | None = None
    due: float = 0.0
    generation: Generation | None = None

    @property
    def prefilling(self) -> bool:
        return not self.output


class Engine:
    """Runs one model while its context is open: `async with Engine(...) as engine`.

    At most `max_num_seqs` sequences run and `max_waiting` wait. `tokens_per_second` paces each sequence (0: as fast
    as it goes); paced sequences step together on a common beat.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: ChatTokenizer,
        *,
        max_num_seqs: int = 32,
        max_waiting: int = 128,
        tokens_per_second: float = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_model_len = model.config.max_position_embeddings
        self.counters = Counters()
        self.dead = asyncio.Event()
        self._model = model
        self._max_num_seqs, self._max_waiting = max_num_seqs, max_waiting
        self._rate = tokens_per_second
        self._clock = clock
        self._running: list[_Sequence] = []
        self._waiting: deque[_Sequence] = deque()
        self._wake = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._never = [tokenizer.bos, *(tokenizer.opened(role)[0] for role in ("system", "user", "assistant"))]

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="engine")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._executor.shutdown()

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def kv_cache_usage(self) -> float:
        """How much of the room for keys and values is in use, 0 to 1."""
        used = sum(sequence.cache.length for sequence in self._running if sequence.cache is not None)
        return used / (self._max_num_seqs * self.max_model_len)

    def submit(self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams], n: int = 1) -> Generation:
        """Queues `n` choices for each prompt; choice `i` of prompt `p` has index `p * n + i`.

        Every prompt and its max_tokens fit `max_model_len`. Raises OverloadedError, taking nothing, if the queue has
        no room for all of them, and EngineDeadError.
        """
        if self.dead.is_set():
            raise EngineDeadError
        free = self._max_num_seqs - len(self._running) + self._max_waiting - len(self._waiting)
        if len(prompts) * n > free:
            self.counters.rejected += 1
            raise OverloadedError
        sequences = [
            _Sequence(prompt, wanted, place * n + choice, choice, self._text_stream(wanted), unread=prompt)
            for place, (prompt, wanted) in enumerate(zip(prompts, params, strict=True))
            for choice in range(n)
        ]
        generation = Generation(self, sequences)
        self._waiting.extend(sequences)
        self._wake.set()
        return generation

    async def embed(self, ids: Sequence[int]) -> list[float]:
        """The mean of the final hidden states, of length 1. Raises EngineDeadError."""
        if self.dead.is_set():
            raise EngineDeadError
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._embedding, ids)

    def _embedding(self, ids: Sequence[int]) -> list[float]:
        (states,) = self._model.hidden_states([(ids, self._model.new_cache(len(ids)))])
        embedding: list[float] = torch.nn.functional.normalize(states.mean(0), dim=0).tolist()
        return embedding

    def _text_stream(self, params: SamplingParams) -> TextStream:
        return TextStream(self.tokenizer.token_bytes, params.stop, keep_stop=params.include_stop_str_in_output)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._wake.clear()
                self._admit()
                batch = self._due(self._clock())
                if not batch:
                    await self._pause()
                    continue
                chosen = await loop.run_in_executor(self._executor, self._advance, batch)
                for (sequence, _), choice in zip(batch, chosen, strict=True):
                    if choice is not None and sequence in self._running:
                        self._account(sequence, *choice)
        except Exception:
            logger.exception("a step of the model failed")
            self._die()

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._max_num_seqs:
            sequence = self._waiting.popleft()
            sequence.cache = self._model.new_cache(len(sequence.prompt) + sequence.params.max_tokens)
            self.counters.prompt_tokens += len(sequence.prompt)
            self._running.append(sequence)

    def _due(self, now: float) -> list[tuple[_Sequence, int]]:
        """Who takes part in the next step, and with how many of its unread tokens."""
        budget, batch = PREFILL_BUDGET, []
        for sequence in self._running:
            count = min(len(sequence.unread), budget) if sequence.prefilling else int(sequence.due <= now)
            if count:
                batch.append((sequence, count))
                budget -= count if sequence.prefilling else 0
        return batch

    async def _pause(self) -> None:
        wait = min((sequence.due for sequence in self._running), default=None)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), None if wait is None else max(0.0, wait - self._clock()))

    def _advance(self, batch: Sequence[tuple[_Sequence, int]]) -> list[tuple[int, TokenLogprob | None] | None]:
        """One step, in the model's thread: the token chosen for each, None where the prompt is not read to its end."""
        rows = [(sequence.unread[:count], sequence.cache) for sequence, count in batch if sequence.cache is not None]
        logits = self._model.step(rows)
        chosen: list[tuple[int, TokenLogprob | None] | None] = []
        for (sequence, count), row in zip(batch, logits, strict=True):
            sequence.unread = sequence.unread[count:]
            chosen.append(None if sequence.unread else self._choose(sequence, row))
        return chosen

    def _choose(self, sequence: _Sequence, logits: torch.Tensor) -> tuple[int, TokenLogprob | None]:
        params, output = sequence.params, sequence.output
        goes_on = params.ignore_eos or len(output) < params.min_tokens
        banned = [*self._never, self.tokenizer.end] if goes_on else self._never
        return choose(logits, params, sequence.prompt, output, choice=sequence.choice, banned=banned)

    def _account(self, sequence: _Sequence, token: int, logprob: TokenLogprob | None) -> None:
        """Notes a chosen token, tells the request what can be told, and ends the sequence where it ends."""
        sequence.output.append(token)
        sequence.unread = (token,)
        sequence.due = self._next_beat()
        self.counters.generation_tokens += 1
        if logprob is not None:
            sequence.logprobs.append(logprob)
        finish_reason, stop_reason = self._ending(sequence, token)
        text, ids = sequence.text.finish() if finish_reason else sequence.text.take()
        told, sequence.logprobs = sequence.logprobs[: len(ids)], sequence.logprobs[len(ids) :]
        if finish_reason:
            self._drop(sequence, finish_reason)
        if (ids or finish_reason) and sequence.generation is not None:
            delta = Delta(sequence.index, text, ids, told, finish_reason, stop_reason)
            sequence.generation._put(sequence, delta)

    def _ending(self, sequence: _Sequence, token: int) -> tuple[str | None, str | int | None]:
        params, made = sequence.params, len(sequence.output)
        may_stop = made > params.min_tokens
        if sequence.text.push(token, may_stop=may_stop):
            return "stop", sequence.text.stopped_by
        if token == self.tokenizer.end:
            return "stop", None
        if may_stop and token in params.stop_token_ids:
            return "stop", token
        return ("length", None) if made >= params.max_tokens else (None, None)

    def _next_beat(self) -> float:
        return (math.floor(self._clock() * self._rate) + 1) / self._rate if self._rate else 0.0

    def _drop(self, sequence: _Sequence, reason: str) -> None:
        for places in (self._running, self._waiting):
            if sequence in places:
                places.remove(sequence)
        self.counters.finished[reason] += 1
        self._wake.set()

    def _die(self) -> None:
        self.dead.set()
        for sequence in [*self._running, *self._waiting]:
            if sequence.generation is not None:
                sequence.generation._fail()
        self._running.clear()
        self._waiting.clear()
