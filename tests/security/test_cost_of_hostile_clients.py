"""What a hostile client costs in memory, measured at the running gateway's process, and that all of it comes back."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.security.test_desync import BODY, POST, SENTINEL, post
from tests.support.processes import FaultProcess, free_port
from tests.support.raw_http import talk
from tests.support.serving import Serving, gateway_yaml
from tests.support.waiting import eventually

CLIENTS = 300
STREAMED = BODY[:-1] + b',"stream":true,"max_tokens":100000}'
KEY = b"Authorization: Bearer secret"
#: What each client sends and does not go on with, and the most that it may cost, in KiB.
ATTACKS = {
    "opens a connection": (b"", 16),
    "half a head, as large as may be": (b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 30_000, 128),
    "half a head of many fields": (b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 3000, 128),
    "64 KiB of a body, without a key": (POST + b"Content-Length: 5000000\r\n\r\n" + b" " * 65_000, 160),
    "1 MiB of a body, with a key": (POST + KEY + b"\r\nContent-Length: 5000000\r\n\r\n" + b" " * (1 << 20), 1280),
    "a stream that is not read": (post(KEY, b"Content-Length: %d" % len(STREAMED), body=STREAMED), 768),
    "1,000 requests at once": (post(KEY, b"Content-Length: %d" % len(BODY)) * 1000, 1024),
}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Serving]:
    path = tmp_path / "gateway.yaml"
    with FaultProcess("--per-token", "0") as backend:
        more = "auth: {keys: [{name: team, key: secret}, {name: other, key: other-secret}]}\n"
        more += "policies: {default: {concurrency: {mode: fixed, limit: 5000}}}"
        path.write_text(gateway_yaml(backend, server="max_body: 20MiB", more=more))
        with Serving(path, free_port()) as running:
            yield running


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
async def test_what_a_hostile_client_costs_is_bounded_and_comes_back(attack: str, gateway: Serving) -> None:
    data, most = ATTACKS[attack]
    port, process = int(gateway.url.rpartition(":")[2]), psutil.Process(gateway.pid)
    good = post(KEY.replace(b"secret", b"other-secret"), b"Connection: close", b"Content-Length: %d" % len(BODY))
    for _ in range(20):
        await talk(port, good)
    files, before = process.num_fds(), process.memory_info().rss
    held = [await asyncio.open_connection("127.0.0.1", port, limit=1024) for _ in range(CLIENTS)]
    for _, writer in held:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(data)
    peak = before
    for _ in range(40):
        await asyncio.sleep(0.1)
        peak = max(peak, process.memory_info().rss)
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert [answer.status for answer in await talk(port, good, timeout=60)] == [200]
    waited = loop.time() - started
    for _, writer in held:
        writer.transport.abort()
    held.clear()
    gc.collect()
    await eventually(lambda: process.num_fds() <= files + 8, timeout=60)  # a backend is kept for 30 s
    assert [answer.status for answer in await talk(port, SENTINEL.replace(b"Host", KEY + b"\r\nHost"))] == [200]
    each = (peak - before) / CLIENTS / 1024
    after = (process.memory_info().rss - before) / 2**20
    found = {"KiB each": round(each, 1), "good answer in s": round(waited, 3), "MiB left": round(after, 1)}
    print("\n" + json.dumps({"attack": attack, **found}))
    assert each < most
    assert after < 16 + (peak - before) / 2**20 / 2  # the allocator keeps some of what was used
