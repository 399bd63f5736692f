"""Out of memory in the engine: nothing is lost that fits alone, and what does not fit fails alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from backends.workers.embedded.catalogue import model_folder
from backends.workers.embedded.engine import PREFILL_BUDGET, SMALLEST_PIECE, Engine
from backends.workers.embedded.generation import Generation, NoMemoryError, OverloadedError
from backends.workers.embedded.model import Decoder, KVCache, ModelConfig
from backends.workers.embedded.sampling import SamplingParams
from backends.workers.embedded.tokens import ChatTokenizer

TOKENIZER = ChatTokenizer.load(model_folder("tide") / "tokenizer.json")
GREEDY = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)
PROMPTS = [[0, 300 + number, 301, 302 + number] for number in range(5)]
LONG = [0, *range(300, 300 + 2 * PREFILL_BUDGET)]


class SmallDevice(Decoder):
    """A model on a device whose allocator fails for a step of more than `rows` tokens, or a cache beyond `tokens`."""

    rows = 10**6
    tokens = 10**6

    def hidden_states(self, batch: Sequence[tuple[Sequence[int], KVCache]]) -> list[Tensor]:
        if sum(len(ids) for ids, _ in batch) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().hidden_states(batch)

    def new_cache(self, capacity: int) -> KVCache:
        if capacity > self.tokens:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
        return super().new_cache(capacity)


@pytest.fixture(autouse=True)
def no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection in the tests' large process takes longer than all else here."""
    monkeypatch.setattr("backends.workers.memory.gc.collect", lambda: 0)


@pytest.fixture
def model() -> SmallDevice:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return SmallDevice(ModelConfig(TOKENIZER.vocab_size, 32, 32, 1, 2, 1, 1024)).double().eval()


async def whole(generation: Generation) -> list[int]:
    ids: list[int] = []
    while deltas := await generation.next():
        ids += [token for delta in deltas for token in delta.token_ids]
    return ids


async def answers(model: Decoder, prompts: Sequence[Sequence[int]], params: SamplingParams = GREEDY) -> list[list[int]]:
    async with Engine(model, TOKENIZER, max_num_seqs=8) as engine:
        return list(await asyncio.gather(*[whole(engine.submit([prompt], [params])) for prompt in prompts]))


@pytest.mark.parametrize("params", [GREEDY, replace(GREEDY, temperature=1.0, seed=7)])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7])
async def test_a_crowd_that_does_not_fit_gives_the_same_answers_in_smaller_steps(
    model: SmallDevice, rows: int, params: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.workers.embedded.engine.SMALLEST_PIECE", 1)
    undisturbed = await answers(model, PROMPTS, params)
    model.rows = rows
    async with Engine(model, TOKENIZER, max_num_seqs=8) as engine:
        given = await asyncio.gather(*[whole(engine.submit([prompt], [params])) for prompt in PROMPTS])
        assert engine.counters.preemptions > 0
        assert engine.counters.finished == {"stop": 0, "length": 5, "abort": 0, "error": 0}
        assert not engine.dead.is_set()
    assert given == undisturbed


async def test_a_long_prompt_is_read_in_smaller_pieces(model: SmallDevice) -> None:
    undisturbed = await answers(model, [LONG])
    model.rows = SMALLEST_PIECE
    assert await answers(model, [LONG]) == undisturbed


async def test_what_does_not_fit_even_alone_fails_alone(model: SmallDevice) -> None:
    expected = await answers(model, [[0]])
    model.rows = SMALLEST_PIECE - 1
    async with Engine(model, TOKENIZER, max_num_seqs=8) as engine:
        with pytest.raises(NoMemoryError, match=r"out of memory: .* MiB are in use and .* MiB are") as failed:
            await whole(engine.submit([LONG], [GREEDY]))
        assert failed.value.used > 0
        assert (engine.running, engine.waiting, engine.counters.finished["error"]) == (0, 0, 1)
        assert not engine.dead.is_set()
        assert [await whole(engine.submit([[0]], [GREEDY]))] == expected


async def test_all_choices_of_a_request_that_does_not_fit_end(model: SmallDevice) -> None:
    model.rows = 0
    async with Engine(model, TOKENIZER, max_num_seqs=8) as engine:
        with pytest.raises(NoMemoryError):
            await whole(engine.submit(PROMPTS[:2], [GREEDY] * 2, n=2))
        assert (engine.running, engine.waiting) == (0, 0)


async def test_memory_is_checked_before_a_request_is_begun(model: SmallDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = model.cache_bytes(4 + GREEDY.max_tokens)
    monkeypatch.setattr("backends.workers.embedded.engine.used_and_available", lambda device: (1 << 30, needed - 1))
    with pytest.raises(NoMemoryError, match="1024 MiB are in use and 0 MiB are available"):
        await answers(model, PROMPTS[:1])


async def test_a_request_waits_for_the_memory_of_one_that_runs(model: SmallDevice) -> None:
    async with Engine(model, TOKENIZER, max_num_seqs=8) as engine:
        first = engine.submit([PROMPTS[0]], [replace(GREEDY, max_tokens=400)])
        await first.next()
        model.tokens = 0
        second = engine.submit([PROMPTS[1]], [GREEDY])
        for _ in range(3):
            await first.next()
        assert (engine.running, engine.waiting) == (1, 1)
        model.tokens = 1000
        first.abort()
        assert len(await whole(second)) == GREEDY.max_tokens


async def test_room_comes_back_as_answers_end(model: SmallDevice) -> None:
    async with Engine(model, TOKENIZER, max_num_seqs=4) as engine:
        model.rows = 1
        await asyncio.gather(*[whole(engine.submit([[0]], [GREEDY])) for _ in range(4)])
        model.rows = 100
        for _ in range(4):
            await whole(engine.submit([[0]], [replace(GREEDY, max_tokens=1)]))
        busy = [engine.submit([[0]], [replace(GREEDY, max_tokens=200)]) for _ in range(4)]
        for generation in busy:
            await generation.next()
        assert engine.running == 4


async def test_an_embedding_is_made_in_pieces_or_refused(model: SmallDevice) -> None:
    async with Engine(model, TOKENIZER) as engine:
        expected = await engine.embed(LONG)
        model.rows = SMALLEST_PIECE
        assert await engine.embed(LONG) == pytest.approx(expected)
        model.rows = 1
        with pytest.raises(NoMemoryError):
            await engine.embed(LONG)
        assert len(await engine.embed([0])) == 32


async def test_embeddings_that_wait_are_bounded(model: SmallDevice) -> None:
    async with Engine(model, TOKENIZER, max_num_seqs=1, max_waiting=1) as engine:
        results = await asyncio.gather(*[engine.embed(LONG) for _ in range(5)], return_exceptions=True)
        assert sum(isinstance(result, OverloadedError) for result in results) == 3
