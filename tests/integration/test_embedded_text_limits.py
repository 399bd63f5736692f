"""The text worker's limits: time, memory, the end of the process, damaged files."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch
from aiohttp.test_utils import TestClient, TestServer

from backends.dialect import ResponseHead
from backends.embedded import EmbeddedDialect
from backends.workers.embedded import catalogue
from backends.workers.embedded.__main__ import main
from backends.workers.embedded.engine import Engine
from backends.workers.embedded.loading import Loaded, load
from backends.workers.embedded.server import TextServer
from policies.outcome import ErrorKind
from tests.support.processes import Process, free_port

CHAT = "/v1/chat/completions"
ENDLESS = {
    "model": "tide-mini",
    "messages": [{"role": "user", "content": "Hi"}],
    "temperature": 0,
    "max_tokens": 400,
    "ignore_eos": True,
}
Client = TestClient[Any, Any]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load("tide-mini", "0")


@asynccontextmanager
async def worker(loaded: Loaded, *, timeout: float = 300.0, **engine: Any) -> AsyncIterator[tuple[Client, Engine]]:
    server = TextServer(["tide-mini"], "0", timeout=timeout)
    http = TestServer(server.app())
    await http.start_server()
    running = Engine(loaded.model, loaded.tokenizer, **engine)
    async with TestClient(http) as client, server.open(loaded, running):
        yield client, running


def kind_of(status: int, body: bytes) -> ErrorKind | None:
    """What the gateway takes an answer for."""
    failure = EmbeddedDialect().classify(CHAT, ResponseHead(status, {"content-type": "application/json"}), body)
    return failure.kind if failure is not None else None


def framed(text: str) -> list[dict[str, Any]]:
    """The JSON of a stream's events, without the last."""
    *events, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


@pytest.mark.parametrize(("timeout", "headers"), [(0.3, {}), (300.0, {"X-Request-Timeout": "0.3"})])
async def test_an_answer_that_takes_too_long_is_given_up_and_its_place_is_free(
    loaded: Loaded, timeout: float, headers: dict[str, str]
) -> None:
    async with worker(loaded, timeout=timeout, tokens_per_second=20) as (client, engine):
        async with client.post(CHAT, json=ENDLESS, headers=headers) as answer:
            assert answer.status == 504
            assert kind_of(504, await answer.read()) is ErrorKind.INFERENCE_TIMEOUT
        assert (engine.running, engine.counters.finished["abort"]) == (0, 1)
        async with client.post(CHAT, json=ENDLESS | {"stream": True}, headers=headers) as answer:
            *content, error = framed(await answer.text())
        assert content
        assert error["error"]["type"] == "inference_timeout"
        failure = EmbeddedDialect().classify_frame(json.dumps(error).encode())
        assert failure is not None
        assert failure.kind is ErrorKind.INFERENCE_TIMEOUT
        assert engine.running == 0
        assert engine.counters.generation_tokens < 40


@pytest.mark.parametrize("header", ["", "soon", "-1", "nan"])
async def test_a_senseless_timeout_header_is_no_limit(loaded: Loaded, header: str) -> None:
    async with worker(loaded) as (client, _):
        body = ENDLESS | {"max_tokens": 1}
        async with client.post(CHAT, json=body, headers={"X-Request-Timeout": header}) as answer:
            assert answer.status == 200


async def test_out_of_memory_is_said_with_figures_and_survived(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    async with worker(loaded) as (client, engine):
        with monkeypatch.context() as patched:
            patched.setattr(type(loaded.model), "hidden_states", fails)
            for path, body in ((CHAT, ENDLESS), ("/v1/embeddings", {"model": "tide-mini", "input": "Hi"})):
                async with client.post(path, json=body) as answer:
                    assert answer.status == 507
                    said = await answer.read()
                assert kind_of(507, said) is ErrorKind.OUT_OF_MEMORY
                assert "MiB are in use and" in json.loads(said)["error"]["message"]
            async with client.post(CHAT, json=ENDLESS | {"stream": True}) as answer:
                [error] = framed(await answer.text())
            assert error["error"]["type"] == "out_of_memory"
        assert not engine.dead.is_set()
        async with client.post(CHAT, json=ENDLESS | {"max_tokens": 2}) as answer:
            assert answer.status == 200


async def test_sigterm_lets_a_running_answer_end_and_takes_no_new_one() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = ["text", "--model", "tide-mini", "--port", str(port), "--tokens-per-second", "50"]
    with Process.python("-m", "backends.workers.embedded", *arguments) as process:
        await asyncio.to_thread(process.wait_ready, f"{url}/health", 60)
        async with aiohttp.ClientSession() as session:
            body = ENDLESS | {"max_tokens": 60, "stream": True}
            async with session.post(url + CHAT, json=body) as stream:
                await stream.content.readany()
                process.signal(signal.SIGTERM)
                frames = framed((await stream.read()).decode())
        assert frames[-1]["choices"][0]["finish_reason"] == "length"
        assert await asyncio.to_thread(process.wait, 20) == 0


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("model.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "the weights in broken are damaged"),
        ("config.json", None, "No such file or directory"),
        ("config.json", b"{}", "the weights in broken do not fit its config.json"),
        ("config.json", b'{"hidden_size":', "Expecting value"),
        ("tokenizer.json", None, "No such file or directory"),
    ],
)
def test_a_damaged_model_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    content: bytes | None,
    said: str,
) -> None:
    shutil.copytree(catalogue.MODELS / "tide-mini", tmp_path / "broken")
    target = tmp_path / "broken" / file
    target.unlink() if content is None else target.write_bytes(content)
    monkeypatch.setattr(catalogue, "MODELS", tmp_path)
    assert main(["text", "--model", "broken", "--port", str(free_port())]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_model_that_does_not_fit_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Little:
        used, available = 1 << 30, 1 << 20

    monkeypatch.setattr("backends.workers.memory.psutil.virtual_memory", Little)
    with pytest.raises(MemoryError, match=r"not enough memory: it needs \d+ MiB, 1 MiB are available"):
        load("tide-mini", "0")
