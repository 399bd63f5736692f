"""What a hostile client costs in memory, measured at the running gateway's process, and that all of it comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import psutil
import pytest

from tests.security.test_desync import BODY, POST, post
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


async def one_round(gateway: Serving, data: bytes, good: bytes) -> tuple[int, float]:
    """The highest RSS while the clients hold on, and how long a good request takes beside them; then they leave."""
    port, process = int(gateway.url.rpartition(":")[2]), psutil.Process(gateway.pid)
    files, peak = process.num_fds(), 0
    held = [await asyncio.open_connection("127.0.0.1", port, limit=1024) for _ in range(CLIENTS)]
    for _, writer in held:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(data)
    for _ in range(30):
        await asyncio.sleep(0.1)
        peak = max(peak, process.memory_info().rss)
    started = monotonic()
    assert [answer.status for answer in await talk(port, good, timeout=60)] == [200]
    waited = monotonic() - started
    for _, writer in held:
        writer.transport.abort()
    await eventually(lambda: process.num_fds() <= files + 8, timeout=60)  # a backend's connection is kept for 30 s
    return peak, waited


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
async def test_what_a_hostile_client_costs_is_bounded_and_comes_back(attack: str, gateway: Serving) -> None:
    data, most = ATTACKS[attack]
    good = post(KEY.replace(b"secret", b"other-secret"), b"Connection: close", b"Content-Length: %d" % len(BODY))
    for _ in range(20):
        await talk(int(gateway.url.rpartition(":")[2]), good)
    before = psutil.Process(gateway.pid).memory_info().rss
    peak, waited = await one_round(gateway, data, good)
    each = (peak - before) / CLIENTS / 1024
    again, _ = await one_round(gateway, data, good)
    print(
        f"\n{attack}: {each:.0f} KiB each; a good request beside it took {waited:.3f} s; again {again / peak - 1:+.0%}"
    )
    assert each < most
    assert again < 1.2 * peak  # the allocator keeps what was used, and it is used again
