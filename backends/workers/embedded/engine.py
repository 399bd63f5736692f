"""Continuous batching: requests join and leave the running batch between steps.

All state lives in the event loop; only the arithmetic of a step runs in a thread of its own. A step advances every
running sequence that is due by one token, and reads a bounded number of prompt tokens of those that have just come, so
that a long prompt does not stop the streams of others.

When memory runs out in a step, nothing of it is lost: the younger half of the batch gives its memory back and waits to
be read again, and one that is alone is read in smaller pieces. Only what then still does not fit fails, alone.
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
from typing import Any, Self

import torch

from backends.workers.embedded.generation import (
    Choice,
    Counters,
    Delta,
    EngineDeadError,
    Generation,
    NoMemoryError,
    OverloadedError,
)
from backends.workers.embedded.interfaces import TextModel, TextTokenizer
from backends.workers.embedded.sampling import SamplingParams, TokenLogprob, choose
from backends.workers.embedded.text_stream import TextStream
from backends.workers.memory import free_cache, is_out_of_memory, used_and_available

logger = logging.getLogger(__name__)

PREFILL_BUDGET = 256
#: Prompt tokens read at a time where memory is short.
SMALLEST_PIECE = 32
#: Tokens of an answer for which there must be memory before it begins; for the rest, memory is taken as it grows.
ROOM_AHEAD = 1024


class Engine:
    """Runs one model while its context is open: `async with Engine(...) as engine`.

    At most `max_num_seqs` sequences run and `max_waiting` wait. `tokens_per_second` paces each sequence (0: as fast
    as it goes); paced sequences step together on a common beat. A step reads at most `prefill_budget` prompt tokens.
    """

    def __init__(
        self,
        model: TextModel,
        tokenizer: TextTokenizer,
        *,
        max_num_seqs: int = 32,
        max_waiting: int = 128,
        tokens_per_second: float = 0,
        prefill_budget: int = PREFILL_BUDGET,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_model_len = model.max_length
        self.counters = Counters()
        self.dead = asyncio.Event()
        self._model = model
        self._max_num_seqs, self._max_waiting = max_num_seqs, max_waiting
        self._fits = max_num_seqs  # as many at once as memory allowed the last time that it ran out
        self._prefill_budget = self._piece = prefill_budget
        self._embeddings = 0
        self._rate = tokens_per_second
        self._clock = clock
        self._running: list[Choice] = []
        self._waiting: deque[Choice] = deque()
        self._wake = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="model")

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
        used: int = sum(sequence.cache.length for sequence in self._running if sequence.cache is not None)
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
            Choice(prompt, wanted, place * n + choice, choice, self._text_stream(wanted), unread=prompt)
            for place, (prompt, wanted) in enumerate(zip(prompts, params, strict=True))
            for choice in range(n)
        ]
        generation = Generation(sequences, lambda sequence: self._drop(sequence, "abort"))
        self._waiting.extend(sequences)
        self._wake.set()
        return generation

    async def embed(self, ids: Sequence[int]) -> list[float]:
        """The mean of the final hidden states, of length 1.

        Raises EngineDeadError, OverloadedError, and NoMemoryError if it does not fit even in small pieces.
        """
        if self.dead.is_set():
            raise EngineDeadError
        if self._embeddings >= self._max_num_seqs + self._max_waiting:
            self.counters.rejected += 1
            raise OverloadedError
        self._embeddings += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._embedding, ids)
        finally:
            self._embeddings -= 1

    def _embedding(self, ids: Sequence[int]) -> list[float]:
        try:
            return self._embedding_in(ids, len(ids))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        logger.warning("out of memory with an embedding of %d tokens; trying again in pieces", len(ids))
        free_cache(self._model.device)
        try:
            return self._embedding_in(ids, SMALLEST_PIECE)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise NoMemoryError(*used_and_available(self._model.device)) from None

    def _embedding_in(self, ids: Sequence[int], piece: int) -> list[float]:
        """Read `piece` tokens at a time."""
        cache, total = self._model.new_cache(len(ids)), torch.zeros(())
        for start in range(0, len(ids), piece):
            (states,) = self._model.hidden_states([(ids[start : start + piece], cache)])
            total = total + states.sum(0)
        embedding: list[float] = torch.nn.functional.normalize(total / len(ids), dim=0).tolist()
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
                try:
                    chosen = await loop.run_in_executor(self._executor, self._advance, batch)
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    self._shrink(len(batch))
                    continue
                for (sequence, _), choice in zip(batch, chosen, strict=True):
                    if choice is not None and sequence in self._running:
                        self._account(sequence, *choice)
        except Exception:
            logger.exception("a step of the model failed")
            self._die()

    def _admit(self) -> None:
        while self._waiting and len(self._running) < min(self._fits, self._max_num_seqs):
            sequence = self._waiting[0]
            sequence.cache = self._new_cache(sequence)
            if sequence.cache is None:
                if self._running:
                    return  # what runs gives memory back when it ends
                self._give_up(sequence)
                continue
            self._waiting.popleft()
            if not sequence.admitted:
                sequence.admitted = True
                self.counters.prompt_tokens += len(sequence.prompt)
            self._running.append(sequence)

    def _new_cache(self, sequence: Choice) -> Any:
        """Room for what the sequence will need soon; None if there is no memory for it."""
        room = min(sequence.capacity, len(sequence.unread) + ROOM_AHEAD)
        if self._model.cache_bytes(room) > used_and_available(self._model.device)[1]:
            return None
        try:
            return self._model.new_cache(room)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _shrink(self, batch: int) -> None:
        """After a step for which memory ran out: less at once, or else the end of the one that is alone."""
        keep = len(self._running) // 2
        if keep:
            self._preempt(self._running[keep:])
            self._fits = keep
        elif self._piece > SMALLEST_PIECE:
            self._piece = SMALLEST_PIECE
        elif self._running:
            self._give_up(self._running[0])
        self._preempt([sequence for sequence in self._running if sequence.cache is None or sequence.cache.spoilt])
        free_cache(self._model.device)
        told = "out of memory in a step of %d sequences; going on with %d, %d tokens of a prompt at a time"
        logger.warning(told, batch, len(self._running), self._piece)

    def _preempt(self, sequences: Sequence[Choice]) -> None:
        for sequence in reversed(sequences):
            self._running.remove(sequence)
            sequence.preempt()
            self._waiting.appendleft(sequence)
            self.counters.preemptions += 1

    def _give_up(self, sequence: Choice) -> None:
        """Ends the request of a sequence that does not fit even alone."""
        error = NoMemoryError(*used_and_available(self._model.device))
        logger.error("a request of up to %d tokens failed: %s", sequence.capacity, error)
        generation = sequence.generation
        for each in [*self._running, *self._waiting]:
            if each.generation is generation:
                self._drop(each, "error")
        if generation is not None:
            generation.fail(error)

    def _due(self, now: float) -> list[tuple[Choice, int]]:
        """Who takes part in the next step, and with how many of its unread tokens."""
        budget, batch = self._piece, []
        for sequence in self._running:
            count = min(len(sequence.unread), budget) if sequence.prefilling else int(sequence.due <= now)
            if count:
                batch.append((sequence, count))
                budget -= count if sequence.prefilling else 0
        return batch

    async def _pause(self) -> None:
        wait = min((sequence.due for sequence in self._running), default=None)
        with contextlib.suppress(TimeoutError):
            # Not wait_for: before Python 3.12 it can swallow a cancellation, and the engine would never end.
            async with asyncio.timeout(None if wait is None else max(0.0, wait - self._clock())):
                await self._wake.wait()

    def _advance(self, batch: Sequence[tuple[Choice, int]]) -> list[tuple[int, TokenLogprob | None] | None]:
        """One step, in the model's thread: the token chosen for each, None where the prompt is not read to its end."""
        rows = [(sequence.unread[:count], sequence.cache) for sequence, count in batch if sequence.cache is not None]
        logits = self._model.step(rows)
        chosen: list[tuple[int, TokenLogprob | None] | None] = []
        for (sequence, count), row in zip(batch, logits, strict=True):
            sequence.unread = sequence.unread[count:]
            chosen.append(None if sequence.unread else self._choose(sequence, row))
        return chosen

    def _choose(self, sequence: Choice, logits: torch.Tensor) -> tuple[int, TokenLogprob | None]:
        params, output = sequence.params, sequence.output
        goes_on = params.ignore_eos or len(output) < params.min_tokens
        never, ends = self.tokenizer.never, self.tokenizer.ends
        banned = [*never, *ends] if goes_on else never
        return choose(logits, params, sequence.prompt, output, choice=sequence.number, banned=banned)

    def _account(self, sequence: Choice, token: int, logprob: TokenLogprob | None) -> None:
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
            sequence.generation.put(sequence, delta)

    def _ending(self, sequence: Choice, token: int) -> tuple[str | None, str | int | None]:
        params, made = sequence.params, len(sequence.output)
        may_stop = made > params.min_tokens
        if sequence.text.push(token, may_stop=may_stop):
            return "stop", sequence.text.stopped_by
        if token in self.tokenizer.ends:
            return "stop", None
        if may_stop and token in params.stop_token_ids:
            return "stop", token
        return ("length", None) if made >= params.max_tokens else (None, None)

    def _next_beat(self) -> float:
        return (math.floor(self._clock() * self._rate) + 1) / self._rate if self._rate else 0.0

    def _drop(self, sequence: Choice, reason: str) -> None:
        for places in (self._running, self._waiting):
            if sequence in places:
                places.remove(sequence)
        self.counters.finished[reason] += 1
        if reason in ("stop", "length"):  # memory is enough again: one more at a time, whole pieces
            self._fits, self._piece = min(self._fits + 1, self._max_num_seqs), self._prefill_budget
        self._wake.set()

    def _die(self) -> None:
        self.dead.set()
        for sequence in [*self._running, *self._waiting]:
            if sequence.generation is not None:
                sequence.generation.fail(EngineDeadError())
        self._running.clear()
        self._waiting.clear()
