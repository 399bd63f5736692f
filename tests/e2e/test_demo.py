"""What `make serve` starts, used as a person would: real models, real processes, the `openai` client, `kill -9`."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import re
import signal
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from PIL import Image

from tests.e2e.demo import Demo
from tests.support.processes import wait_until

QUESTION: Any = [{"role": "user", "content": "What do seals eat?"}]


@pytest.fixture
async def client(demo: Demo) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{demo.url}/v1", api_key="not-needed", max_retries=0) as sdk:
        yield sdk


async def test_the_openai_client_chats(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="tide", messages=QUESTION, temperature=0)
    assert "eat" in (answer.choices[0].message.content or "")
    chunks = await client.chat.completions.create(model="tide", messages=QUESTION, temperature=0, stream=True)
    streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
    assert streamed == answer.choices[0].message.content


async def test_the_openai_client_completes_and_lists_models(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="tide", prompt="Once upon a time", max_tokens=5, temperature=0)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    assert [model.id async for model in client.models.list()] == ["tide", "tide-mini", "shoal"]


async def test_the_openai_client_draws(client: openai.AsyncOpenAI) -> None:
    answer = await client.images.generate(model="shoal", prompt="a large red circle on a blue background")
    assert answer.data
    image = Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json or "")))
    assert (image.format, image.size) == ("PNG", (64, 64))


def test_the_native_endpoints_answer(demo: Demo) -> None:
    text = demo.post("/generate", {"prompt": "What do seals eat?", "max_tokens": 8})
    assert text["generated_text"]
    assert (text["model_used"], text["was_fallback"]) == ("tide", False)
    image = demo.post("/generate_image", {"prompt": "a star", "width": 96, "height": 64, "steps": 4})
    assert Image.open(io.BytesIO(base64.b64decode(image["image"]))).size == (96, 64)
    assert (image["model_used"], image["was_fallback"]) == ("shoal", False)


async def test_the_loss_of_a_worker_is_hidden_and_healed(demo: Demo, client: openai.AsyncOpenAI) -> None:
    """`kill -9` of a text worker under a small load: every answer is whole; the breaker opens and closes again."""
    told = re.search(r"kill -9 (\d+)", demo.process.output)
    assert told
    await asyncio.to_thread(wait_until, lambda: demo.health() == "healthy", 20, "health")
    breaker_states, health_states, answers = set(), set(), []
    killed = asyncio.Event()

    async def ask_until_healed(number: int) -> None:
        for asked in range(400):
            answer = await client.chat.completions.create(model="tide", messages=QUESTION, max_tokens=4)
            answers.append(answer.choices[0].finish_reason)
            if number == 0 and asked == 5:
                os.kill(int(told[1]), signal.SIGKILL)
                killed.set()
            if killed.is_set():
                breaker_states.add(await asyncio.to_thread(demo.breaker, "tide-a"))
                health_states.add(await asyncio.to_thread(demo.health))
                if 2 in breaker_states and await asyncio.to_thread(demo.breaker, "tide-a") == 0:
                    return

    await asyncio.gather(*[ask_until_healed(number) for number in range(4)])
    assert {"length"} == set(answers)
    assert breaker_states >= {0, 2}
    assert "degraded" in health_states
    await asyncio.to_thread(wait_until, lambda: demo.health() == "healthy", 30, "health")
