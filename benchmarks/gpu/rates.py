"""Tokens and images a second, asked of the worker itself and through the gateway in turns."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.gpu.stack import Stack, tell

Ask = Callable[[str], Awaitable[float]]
TEXT_CROWDS, IMAGE_CROWDS = (1, 8, 32), (1, 4)
_TURNS = 3


async def text(stack: Stack, seconds: float, tokens: int = 128) -> list[dict[str, Any]]:
    """By number of requests at a time: tokens a second and the gateway's share."""

    async def ask(url: str) -> float:
        body = {"model": stack.model, "prompt": "The sea", "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
        async with stack.session.post(f"{url}/v1/completions", json=body) as answer:
            answer.raise_for_status()
            return float((await answer.json())["usage"]["completion_tokens"])

    return [await _compared(stack, ask, crowd, seconds, "tokens_per_second") for crowd in TEXT_CROWDS]


async def images(stack: Stack, seconds: float, steps: int) -> list[dict[str, Any]]:
    """By number of requests at a time: images a second and the gateway's share."""

    async def ask(url: str) -> float:
        body = {"model": stack.model, "prompt": "a red circle", "num_inference_steps": steps, "seed": 1}
        async with stack.session.post(f"{url}/v1/images/generations", json=body) as answer:
            answer.raise_for_status()
            return float(len((await answer.json())["data"]))

    return [await _compared(stack, ask, crowd, seconds, "images_per_second") for crowd in IMAGE_CROWDS]


async def _compared(stack: Stack, ask: Ask, crowd: int, seconds: float, unit: str) -> dict[str, Any]:
    """Medians of a few turns, the worker itself and the gateway alternately, as a machine's pace drifts."""
    await ask(stack.direct)
    rates: dict[str, list[float]] = {stack.direct: [], stack.gateway: []}
    for _ in range(_TURNS):
        for url, found in rates.items():
            found.append(await _rate(ask, url, crowd, seconds))
    direct, through = (statistics.median(found) for found in rates.values())
    told: dict[str, Any] = {
        "at_a_time": crowd,
        f"{unit}_direct": round(direct, 2),
        f"{unit}_through_gateway": round(through, 2),
        "gateway_share_of_time": round(1 - through / direct, 4),
        "seconds_per_turn": seconds,
    }
    tell(told)
    return told


async def _rate(ask: Ask, url: str, crowd: int, seconds: float) -> float:
    """What `crowd` clients without pause get a second; each finishes what it began."""
    begun = time.perf_counter()

    async def client() -> float:
        made = 0.0
        while time.perf_counter() - begun < seconds or not made:
            made += await ask(url)
        return made

    made = sum(await asyncio.gather(*[client() for _ in range(crowd)]))
    return made / (time.perf_counter() - begun)


async def first_token(stack: Stack) -> dict[str, float]:
    """Seconds until the first frame of a stream, medians: alone, nothing else runs."""
    found = {}
    body = {"model": stack.model, "prompt": "The sea", "max_tokens": 2, "stream": True, "temperature": 0}
    for name, url in (("direct", stack.direct), ("through_gateway", stack.gateway)):
        waits = []
        for _ in range(5):
            begun = time.perf_counter()
            async with stack.session.post(f"{url}/v1/completions", json=body) as answer:
                await answer.content.readany()
                waits.append(time.perf_counter() - begun)
                await answer.read()
        found[name] = round(statistics.median(waits), 5)
    tell(f"first token: {found}")
    return found
