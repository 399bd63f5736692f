"""Real models: a worker is killed -9 in the middle of many streams, and each is what it would have been."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest

from tests.support.gateway import running_gateway
from tests.support.processes import Process, free_port

_CHAT, _COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_ASKED: list[tuple[str, dict[str, Any]]] = [
    (_CHAT, {"temperature": 0}),
    (_CHAT, {"temperature": 0.9, "seed": 11, "top_p": 0.95}),
    (_CHAT, {"temperature": 1.3, "seed": 5, "repetition_penalty": 1.1}),
    (_CHAT, {"temperature": 0, "stop": ["zzz", " the tide goes out and"], "min_tokens": 30}),
    (_CHAT, {"temperature": 0.9, "seed": 3, "presence_penalty": 0.5}),
    (_CHAT, {"temperature": 0, "ignore_eos": True, "stream_options": {"include_usage": True}}),
    (_CHAT, {"temperature": 0, "max_completion_tokens": 48}),
    (_COMPLETIONS, {"temperature": 0, "ignore_eos": True}),
    (_COMPLETIONS, {"temperature": 2.0, "seed": 8, "ignore_eos": True}),  # hot: bytes that are parts of characters
    (_COMPLETIONS, {"temperature": 2.0, "seed": 9, "ignore_eos": True, "stop": ["\ufffd\ufffd\ufffd\ufffd", "qqq"]}),
    (_COMPLETIONS, {"temperature": 0, "return_token_ids": True, "ignore_eos": True}),
]


def _body(path: str, fields: dict[str, Any]) -> dict[str, Any]:
    said = {"messages": [{"role": "user", "content": "Tell me about the sea."}]}
    body = {"model": "tide", "max_tokens": 60, "stream": True}
    return body | (said if path == _CHAT else {"prompt": "The sea"}) | fields


@asynccontextmanager
async def _workers(*ports: int) -> AsyncIterator[list[Process]]:
    options = ("text", "--model", "tide-mini", "--served-model-name", "tide", "--tokens-per-second", "40")
    started = [Process.python("-m", "backends.workers.embedded", *options, "--port", str(port)) for port in ports]
    try:
        for process in started:
            process.__enter__()
        for process in started:
            await asyncio.to_thread(process.wait_for_line, "Serving", timeout=90)
        yield started
    finally:
        for process in started:
            process.kill()
            process.__exit__(None, None, None)


async def _stream(
    session: aiohttp.ClientSession, url: str, path: str, body: dict[str, Any], began: Callable[[], None]
) -> list[Any]:
    """The events of a stream; `began` is called when a few have come."""
    found: list[Any] = []
    async with session.post(url + path, json=body) as response:
        assert response.status == 200
        async for line in response.content:
            if line.startswith(b"data: "):
                data = line[6:].strip()
                found.append(data.decode() if data == b"[DONE]" else orjson.loads(data))
                if len(found) == 8:
                    began()
    return found


def _seen(events: list[Any]) -> tuple[Any, ...]:
    choices = [choice for event in events if event != "[DONE]" for choice in event["choices"]]
    return (
        "".join(c.get("text") or c.get("delta", {}).get("content") or "" for c in choices),
        [(c["finish_reason"], c.get("stop_reason")) for c in choices if c["finish_reason"]],
        [token for c in choices for token in c.get("token_ids") or ()],
        [event["usage"] for event in events if event != "[DONE]" and event.get("usage")],
        events[-1],
    )


@pytest.mark.slow
async def test_a_worker_killed_in_the_middle_of_many_streams_is_not_noticed() -> None:
    first, second = free_port(), free_port()
    text = f"""
server: {{listen: '127.0.0.1:0'}}
backends:
  a: {{url: 'http://127.0.0.1:{first}', kind: embedded}}
  b: {{url: 'http://127.0.0.1:{second}', kind: embedded}}
routes: [{{model: tide, backends: [a], fallback: [b]}}]
policies:
  default:
    retry: {{budget: {{ratio: 1, min_per_second: 100}}}}
    concurrency: {{mode: fixed, limit: 64}}
"""
    async with _workers(first, second) as (killed, _), running_gateway(text) as gateway:
        bodies = [(path, _body(path, fields)) for path, fields in _ASKED]
        other = f"http://127.0.0.1:{second}"
        right = await asyncio.gather(*[_stream(gateway.session, other, p, b, lambda: None) for p, b in bodies])
        begun = asyncio.Semaphore(0)
        streams = [asyncio.create_task(_stream(gateway.session, gateway.url, p, b, begun.release)) for p, b in bodies]
        for _ in bodies:
            await begun.acquire()
        killed.kill()
        got = await asyncio.gather(*streams)
        for (path, body), mine, undisturbed in zip(bodies, got, right, strict=True):
            assert _seen(mine) == _seen(undisturbed), (path, body)
            assert len({event["id"] for event in mine if event != "[DONE]"}) == 1
        metrics = (await gateway.get("/metrics")).body.decode()
        assert f'resumes_total{{route="tide",outcome="token_ids"}} {len(bodies) - 1}.0' in metrics
        assert 'resumes_total{route="tide",outcome="replay"} 1.0' in metrics
