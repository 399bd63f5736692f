"""SIGTERM: not ready first, then nothing new; what runs finishes, or ends with an error that says why."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from pathlib import Path

import aiohttp
import pytest

from tests.integration.test_operations import config
from tests.support.counting_model import count_text
from tests.support.fault_backend import FaultBackend
from tests.support.gateway import running_gateway
from tests.support.processes import FaultProcess, Process, free_port, status_of, wait_until
from tests.support.waiting import eventually

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "count"}], "max_tokens": 8}


async def closes(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(5):
        return await reader.read()


async def test_while_it_drains_it_is_not_ready_and_answers_ask_for_a_new_connection() -> None:
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
        stopping = asyncio.create_task(gateway.gateway.stop(timeout=5, delay=5))
        await asyncio.sleep(0)
        assert (await gateway.get("/readyz")).status == 503
        assert (await gateway.get("/livez")).status == 200
        answer = await gateway.chat()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        body = json.dumps(CHAT).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        answered = await closes(reader)
        assert answered.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"connection: close\r\n" in answered
        writer.close()
        gateway.gateway.hurry()
        await stopping


async def test_an_idle_connection_is_kept_for_the_delay_and_then_closed() -> None:
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
        await eventually(lambda: gateway.gateway.server.connections)
        before = time.monotonic()
        stopping = asyncio.create_task(gateway.gateway.stop(timeout=5, delay=0.3))
        assert await closes(reader) == b""
        assert time.monotonic() - before >= 0.29
        writer.close()
        await stopping


async def test_a_client_that_was_not_told_to_close_is_given_time_for_its_next_request() -> None:
    """Its stream had begun before the drain, with a head that promised a connection to be kept."""
    async with FaultBackend(per_token=0.02) as backend, running_gateway(config(backend)) as gateway:
        async with gateway.session.post(gateway.url + "/v1/chat/completions", json={**CHAT, "stream": True}) as begun:
            stopping = asyncio.create_task(gateway.gateway.stop(timeout=5, delay=0.1))
            assert (await begun.read()).endswith(b"data: [DONE]\n\n")
            assert "connection" not in begun.headers
        following = await gateway.chat()
        assert (following.status, following.headers["connection"]) == (200, "close")
        await stopping


@pytest.mark.parametrize("stream", [True, False])
async def test_at_the_limit_what_still_runs_ends_with_an_error_that_says_why(stream: bool) -> None:
    async with FaultBackend(per_token=0.2) as backend, running_gateway(config(backend)) as gateway:
        running = asyncio.create_task(gateway.chat(stream=stream, max_tokens=500))
        await backend.log.wait_for_state("running")
        if stream:
            await eventually(lambda: any(one.head_sent for one in gateway.gateway.server._connections))
        async with asyncio.timeout(5):
            await gateway.gateway.stop(timeout=0.3)
        answer = await running
        assert answer.error["error_type"] == "model_overloaded"
        assert "restarted" in answer.error["message"]
        assert answer.error["is_retryable"] is True
        assert answer.status == (200 if stream else 503)
        assert stream or answer.headers["x-should-retry"] == "true"
        assert gateway.gateway.services.in_flight == 0
        assert b"[DONE]" not in answer.body


def serve(path: Path, port: int) -> Process:
    return Process.python("-m", "gateway", "serve", "--config", str(path), "--port", str(port))


def yaml(backend: FaultProcess, server: str) -> str:
    return (
        f"server: {{{server}}}\nbackends: {{b0: {{url: '{backend.url}', kind: vllm}}}}\n"
        "routes: [{model: tiny, backends: [b0]}]\n"
    )


async def test_sigterm_finishes_a_stream_and_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    path, port = tmp_path / "gateway.yaml", free_port()
    with FaultProcess("--per-token", "0.1") as backend:
        path.write_text(yaml(backend, "drain: 20s, drain_delay: 300ms"))
        for signals, whole in (((signal.SIGTERM,), True), ((signal.SIGTERM, signal.SIGINT), False)):
            with serve(path, port) as process:
                url = f"http://127.0.0.1:{port}"
                await asyncio.to_thread(process.wait_ready, url + "/readyz")
                async with (
                    aiohttp.ClientSession() as session,
                    session.post(url + "/v1/chat/completions", json={**CHAT, "stream": True}) as answer,
                ):
                    assert await answer.content.readline()
                    process.signal(signals[0])
                    for status in (503, None):
                        await asyncio.to_thread(wait_until, lambda: status_of(url + "/readyz") == status)  # noqa: B023
                    for number in signals[1:]:
                        process.signal(number)
                    text = (await answer.read()).decode()
                    assert ("[DONE]" in text) is whole
                    assert ("model_overloaded" in text) is not whole
                assert await asyncio.to_thread(process.wait) == 0


async def test_a_half_sent_request_is_taken_to_its_end() -> None:
    async with FaultBackend() as backend, running_gateway(config(backend)) as gateway:
        body = json.dumps(CHAT).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body[:10])
        await eventually(lambda: gateway.gateway.server.buffered == 10)
        stopping = asyncio.create_task(gateway.gateway.stop(timeout=5))
        await asyncio.sleep(0.1)
        writer.write(body[10:])
        answered = await closes(reader)
        assert json.loads(answered.partition(b"\r\n\r\n")[2])["choices"][0]["message"]["content"] == count_text(1, 8)
        writer.close()
        await stopping
