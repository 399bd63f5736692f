"""Continuous batching: who runs, who waits, who leaves."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import torch

from backends.workers.embedded.catalogue import model_folder
from backends.workers.embedded.engine import PREFILL_BUDGET, Engine
from backends.workers.embedded.generation import EngineDeadError, Generation, OverloadedError
from backends.workers.embedded.model import Decoder, ModelConfig
from backends.workers.embedded.sampling import SamplingParams
from backends.workers.embedded.tokens import ChatTokenizer

TOKENIZER = ChatTokenizer.load(model_folder("tide") / "tokenizer.json")
PROMPT = [0, 300, 301]
ENDLESS = SamplingParams(max_tokens=400, temperature=0, ignore_eos=True)


@pytest.fixture(scope="module")
def model() -> Decoder:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return Decoder(ModelConfig(TOKENIZER.vocab_size, 32, 32, 1, 2, 1, 1024)).double().eval()


@pytest.fixture
async def engine(model: Decoder) -> AsyncIterator[Engine]:
    async with Engine(model, TOKENIZER, max_num_seqs=2, max_waiting=1) as made:
        yield made


async def whole(generation: Generation) -> list[int]:
    ids: list[int] = []
    while deltas := await generation.next():
        ids += [token for delta in deltas for token in delta.token_ids]
    return ids


async def test_more_than_the_slots_wait_and_more_than_the_queue_is_refused(engine: Engine) -> None:
    first, *others = [engine.submit([PROMPT], [ENDLESS]) for _ in range(3)]
    await first.next()
    assert (engine.running, engine.waiting) == (2, 1)
    with pytest.raises(OverloadedError):
        engine.submit([PROMPT], [ENDLESS])
    assert engine.counters.rejected == 1
    for generation in (first, *others):
        generation.abort()


async def test_a_request_is_taken_whole_or_not_at_all(engine: Engine) -> None:
    with pytest.raises(OverloadedError):
        engine.submit([PROMPT] * 2, [ENDLESS] * 2, n=2)
    assert (engine.running, engine.waiting) == (0, 0)


async def test_an_abort_frees_the_slot_for_the_next_in_the_queue(engine: Engine) -> None:
    first, second, third = [engine.submit([PROMPT], [ENDLESS]) for _ in range(3)]
    await second.next()
    first.abort()
    assert engine.running == 1
    assert await third.next()
    second.abort()
    third.abort()
    assert (engine.running, engine.waiting, engine.kv_cache_usage) == (0, 0, 0)
    assert engine.counters.finished["abort"] == 3


async def test_an_abort_of_what_has_ended_changes_nothing(engine: Engine) -> None:
    generation = engine.submit([PROMPT], [replace(ENDLESS, max_tokens=2)])
    assert len(await whole(generation)) == 2
    generation.abort()
    assert engine.counters.finished == {"stop": 0, "length": 1, "abort": 0, "error": 0}


async def test_a_long_prompt_does_not_stop_a_running_answer(engine: Engine) -> None:
    running = engine.submit([PROMPT], [replace(ENDLESS, max_tokens=900)])
    await running.next()
    before = engine.counters.generation_tokens
    late = engine.submit([[300] * (3 * PREFILL_BUDGET)], [replace(ENDLESS, max_tokens=1)])
    await whole(late)
    assert engine.counters.generation_tokens - before >= 3
    running.abort()


async def test_choices_of_one_request_have_their_own_numbers_and_ends(engine: Engine) -> None:
    hot = SamplingParams(max_tokens=5, temperature=2.0, seed=3, ignore_eos=True)
    generation, made = engine.submit([PROMPT], [hot], n=2), {0: 0, 1: 0}
    while deltas := await generation.next():
        for delta in deltas:
            made[delta.index] += len(delta.token_ids)
    assert made == {0: 5, 1: 5}


async def test_every_token_is_counted(engine: Engine) -> None:
    await whole(engine.submit([PROMPT], [replace(ENDLESS, max_tokens=7)]))
    assert (engine.counters.prompt_tokens, engine.counters.generation_tokens) == (3, 7)


async def test_min_tokens_keeps_the_end_away(model: Decoder) -> None:
    async with Engine(model, TOKENIZER) as engine:
        bias = {TOKENIZER.end: 100.0}
        at_once = SamplingParams(max_tokens=9, temperature=0, logit_bias=bias)
        assert await whole(engine.submit([PROMPT], [at_once])) == [TOKENIZER.end]
        later = await whole(engine.submit([PROMPT], [replace(at_once, min_tokens=4)]))
        assert len(later) == 5
        assert later[-1] == TOKENIZER.end


async def test_paced_answers_take_their_time(model: Decoder) -> None:
    async with Engine(model, TOKENIZER, tokens_per_second=200) as engine:
        started = time.monotonic()
        await whole(engine.submit([PROMPT], [replace(ENDLESS, max_tokens=21)]))
    assert time.monotonic() - started >= 19 / 200


async def test_a_failed_step_ends_everything(model: Decoder) -> None:
    broken = Decoder(model.config).float().eval()
    broken.embed.weight = torch.nn.Parameter(torch.zeros(1, 32))  # every token is out of range
    async with Engine(broken, TOKENIZER) as engine:
        generation = engine.submit([PROMPT], [ENDLESS])
        with pytest.raises(EngineDeadError):
            await generation.next()
        assert engine.dead.is_set()
        assert (engine.running, engine.waiting) == (0, 0)
        with pytest.raises(EngineDeadError):
            engine.submit([PROMPT], [ENDLESS])
