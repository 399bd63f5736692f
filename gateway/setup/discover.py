"""Finds model servers: asks addresses what speaks there and which models it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

#: Where model servers listen by default: vLLM, Seawall's workers, llama.cpp, Ollama, SGLang, TGI and the like.
USUAL_PORTS = (8000, 8001, 8002, 8003, 8080, 8081, 9001, 9002, 9003, 9004, 11434, 30000, 30001, 3000, 5000)
_MAX_BODY = 1 << 20
_OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llamacpp", "library": "ollama"}
#: Paths that only one kind of server answers with 200 and JSON, and a key in it.
_SIGNS = (
    ("/api/version", "version", "ollama"),
    ("/get_server_info", "version", "sglang"),
    ("/info", "docker_label", "tgi"),
    ("/props", "default_generation_settings", "llamacpp"),
    ("/v2", "extensions", "triton"),
    ("/version", "version", "vllm"),
)


@dataclass(frozen=True, slots=True)
class Found:
    """A server that answered: its base URL, what speaks there, and its models with their context lengths if it says."""

    url: str
    kind: str
    models: tuple[str, ...]
    context_length: int | None = None


async def discover(urls: Iterable[str], *, timeout: float = 2.0) -> list[Found]:
    """The model servers at these base URLs, all asked at once, in their order."""
    limits = aiohttp.ClientTimeout(total=timeout)
    async with aiohttp.ClientSession(timeout=limits, auto_decompress=False) as session:
        answers = await asyncio.gather(*[_ask(session, url.rstrip("/").removesuffix("/v1")) for url in urls])
    return [found for found in answers if found is not None]


def usual_urls(host: str = "127.0.0.1", ports: Sequence[int] = USUAL_PORTS) -> list[str]:
    """Base URLs of a host at the usual ports."""
    return [f"http://{host}:{port}" for port in ports]


async def _ask(session: aiohttp.ClientSession, url: str) -> Found | None:
    listed = await _get(session, url + "/v1/models")
    if listed is None or not isinstance(listed[0].get("data"), list):
        return None
    document, headers = listed
    if "X-Correlation-ID" in headers and headers.get("Server", "") != "uvicorn":
        return None  # a gateway such as this one
    entries = [entry for entry in document["data"] if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    if not entries:
        return None
    first = entries[0]
    length = first.get("max_model_len") or (first.get("meta") or {}).get("n_ctx_train")
    kind = await _kind(session, url, str(first.get("owned_by")))
    models = tuple(entry["id"] for entry in entries)
    return Found(url, kind, models, length if isinstance(length, int) else None)


async def _kind(session: aiohttp.ClientSession, url: str, owner: str) -> str:
    if owner in _OWNERS:
        return _OWNERS[owner]
    if owner == "seawall":
        return "diffusers"
    for path, key, kind in _SIGNS:
        answer = await _get(session, url + path)
        if answer is not None and key in answer[0]:
            return kind
    return "openai"


async def _get(session: aiohttp.ClientSession, url: str) -> tuple[dict[str, Any], Any] | None:
    """(JSON object, headers) of a good answer, or None."""
    try:
        async with session.get(url, allow_redirects=False) as response:
            body = await response.content.read(_MAX_BODY)
            document = orjson.loads(body) if response.status == 200 else None
            return (document, response.headers) if isinstance(document, dict) else None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None
