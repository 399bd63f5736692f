"""Real CUDA out of memory: another process takes what is free, requests meet it, and the worker must outlive it."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.gpu.stack import Stack, tell

_CROWD = 24


@asynccontextmanager
async def _hog(device: str, leave_mib: int) -> AsyncIterator[str]:
    """Memory taken while the context lasts; what it says it holds."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.gpu.hog",
        device,
        str(leave_mib),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(120):
            yield (await process.stdout.readline()).decode().strip()
    finally:
        process.stdin.close()
        await process.wait()


async def text(stack: Stack, device: str, leave_mib: int, length: int) -> dict[str, Any]:
    """Long prompts, many at once, with little memory; then one without."""
    prompt = list(range(300, 300 + length // 2)) if length < 2000 else [300 + n % 1000 for n in range(length // 2)]
    body = {"model": stack.model, "prompt": prompt, "max_tokens": 64, "temperature": 0, "ignore_eos": True}
    return await _provoked(stack, device, leave_mib, "/v1/completions", body, "vllm:num_preemptions_total")


async def images(stack: Stack, device: str, leave_mib: int, side: int) -> dict[str, Any]:
    """Large images with little memory; then one without."""
    body = {"model": stack.model, "prompt": "a red circle", "size": f"{side}x{side}", "num_inference_steps": 4}
    return await _provoked(stack, device, leave_mib, "/v1/images/generations", body, "diffusers_images")


async def _provoked(
    stack: Stack, device: str, leave_mib: int, path: str, body: dict[str, Any], counter: str
) -> dict[str, Any]:
    before, pid = await stack.metric(counter), stack.process.pid
    async with _hog(device, leave_mib) as held:
        tell(held)
        told = Counter(await asyncio.gather(*[_outcome(stack, path, body) for _ in range(_CROWD)]))
        devices = await _told(stack)
    after = await _outcome(stack, path, body)
    document = {
        "taken_by_another_process": held,
        "left_mib": leave_mib,
        "outcomes": dict(told),
        "worker_told_meanwhile": devices,
        counter: await stack.metric(counter) - before,
        "afterwards": after,
        "survived": after.startswith("200") and stack.process.returncode is None and stack.process.pid == pid,
    }
    tell(document)
    return document


async def _told(stack: Stack) -> str:
    """What the worker's `/health` says of its devices."""
    async with stack.session.get(f"{stack.direct}/health") as answer:
        told = await answer.json()
    return f"{answer.status} {told['gpu_message'] or 'healthy'}"


async def _outcome(stack: Stack, path: str, body: dict[str, Any]) -> str:
    """`200`, `200 reduced`, or the status and type of the error."""
    async with stack.session.post(f"{stack.gateway}{path}", json=body) as answer:
        told = await answer.json()
    if answer.status == 200:
        return "200 reduced" if told.get("warning") or "X-Seawall-Warning" in answer.headers else "200"
    return f"{answer.status} {told['error']['error_type']}"
