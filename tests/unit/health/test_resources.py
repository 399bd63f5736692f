from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psutil
import pytest

from gateway.health.resources import Memory, ResourceSampler, read_memory

MIB = 2**20


def group(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "ascii")


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        pytest.param(
            "0::/\n",
            {
                "memory.max": f"{64 * MIB}\n",
                "memory.current": f"{32 * MIB}\n",
                "memory.stat": f"anon 1\ninactive_file {8 * MIB}\n",
            },
            Memory(24 * MIB, 64 * MIB),
            id="version 2, as a container sees itself",
        ),
        pytest.param(
            "0::/system.slice/seawall.service\n",
            {
                "system.slice/memory.max": f"{16 * MIB}\n",
                "system.slice/memory.current": f"{4 * MIB}\n",
                "system.slice/seawall.service/memory.max": "max\n",
                "system.slice/seawall.service/memory.current": "5\n",
            },
            Memory(4 * MIB, 16 * MIB),
            id="version 2, the limit is set further up",
        ),
        pytest.param(
            "5:cpu,memory:/\n0::/\n",
            {
                "memory/memory.limit_in_bytes": f"{32 * MIB}\n",
                "memory/memory.usage_in_bytes": f"{20 * MIB}\n",
                "memory/memory.stat": f"total_inactive_file {4 * MIB}\n",
            },
            Memory(16 * MIB, 32 * MIB),
            id="version 1",
        ),
    ],
)
def test_a_containers_limit_counts(tmp_path: Path, own: str, files: dict[str, str], expected: Memory) -> None:
    group(tmp_path, {"own": own, **files})
    assert read_memory(tmp_path, tmp_path / "own") == expected


@pytest.mark.parametrize(
    ("own", "files"),
    [
        ("0::/\n", {}),
        ("0::/\n", {"memory.max": "max\n", "memory.current": "5\n"}),
        (
            "4:memory:/\n",
            {"memory/memory.limit_in_bytes": "9223372036854771712\n", "memory/memory.usage_in_bytes": "5\n"},
        ),
        ("garbage", {}),
        ("", {}),
    ],
)
def test_without_a_limit_the_machines_memory_counts(tmp_path: Path, own: str, files: dict[str, str]) -> None:
    group(tmp_path, {"own": own, **files})
    memory = read_memory(tmp_path, tmp_path / "own")
    assert memory.limit == psutil.virtual_memory().total
    assert 0 < memory.used < memory.limit


async def test_the_sampler_samples_at_once_and_stops(tmp_path: Path) -> None:
    sampler = ResourceSampler(3600, path=str(tmp_path))
    sampled = asyncio.Event()
    loop = asyncio.get_running_loop()
    sample = sampler.sample

    def sample_and_tell() -> Any:
        result = sample()
        loop.call_soon_threadsafe(sampled.set)
        return result

    sampler.sample = sample_and_tell  # type: ignore[method-assign]
    sampler.start()
    await asyncio.wait_for(sampled.wait(), 10)
    await sampler.stop()
    latest = sampler.latest
    assert latest is not None
    assert 0 <= latest.cpu <= 1
    assert 0 < latest.memory.used <= latest.memory.limit
    assert 0 <= latest.disk.free <= latest.disk.total
