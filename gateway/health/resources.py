"""CPU, memory, disk and GPUs of this machine, sampled in the background so that no request ever waits for them."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

import psutil
import structlog

from backends.workers.gpu import Gpu, Gpus

_log = structlog.get_logger()
_CGROUP = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
#: Version 1 says "no limit" with a number near 2**63.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. `limit` is the container's if that is less than what the machine has."""

    used: int
    limit: int

    @property
    def share(self) -> float:
        return self.used / self.limit if self.limit else 0.0


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes of the file system that the gateway runs on, as an unprivileged user may use them."""

    free: int
    total: int

    @property
    def share(self) -> float:
        """Share in use, 0 to 1."""
        return 1 - self.free / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Resources:
    """One sample. `cpu` is the share of all cores in use since the sample before. `gpu_message` says why `gpus` is
    empty or, with `gpu_failed`, what went wrong with devices that were there."""

    cpu: float
    memory: Memory
    disk: Disk
    gpus: tuple[Gpu, ...] = ()
    gpu_message: str = ""
    gpu_failed: bool = False


def read_memory(cgroup: Path = _CGROUP, own_cgroups: Path = _OWN_CGROUPS) -> Memory:
    """Memory of the container if it has a limit, else of the machine."""
    machine = psutil.virtual_memory()
    limited = [Memory(machine.total - machine.available, machine.total)]
    with contextlib.suppress(OSError, ValueError):
        limited += _cgroup_memory(cgroup, own_cgroups)
    return min(limited, key=lambda memory: memory.limit)


def _cgroup_memory(root: Path, own_cgroups: Path) -> list[Memory]:
    """The limits of the process's control group and of those above it, version 2 or 1 (where it is mounted whole)."""
    found = []
    for line in own_cgroups.read_text("ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, names = root, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = base / path.lstrip("/")
        for level in (group, *group.parents):
            if level.is_relative_to(base):
                found += _limit_of(level, *names)
    return found


def _limit_of(group: Path, limit_name: str, used_name: str) -> list[Memory]:
    try:
        limit = int((group / limit_name).read_text("ascii"))
        used = int((group / used_name).read_text("ascii"))
    except (OSError, ValueError):  # not there, or "max"
        return []
    # Cached files are given up under pressure, so they don't count (as in the kubelet's working set).
    return [Memory(max(0, used - _inactive_file(group)), limit)] if limit < _NO_LIMIT else []


def _inactive_file(group: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in (group / "memory.stat").read_text("ascii").splitlines():
            name, _, value = line.partition(" ")
            if name in ("inactive_file", "total_inactive_file"):
                return int(value)
    return 0


class ResourceSampler:
    """Keeps the latest sample; `start` takes one every `interval` seconds in a thread."""

    def __init__(self, interval: float = 5.0, *, path: str = ".", gpus: Gpus | None = None) -> None:
        self.latest: Resources | None = None
        self._interval = interval
        self._path = path
        self._gpus = gpus or Gpus()
        self._task: asyncio.Task[None] | None = None

    def sample(self) -> Resources:
        """Takes a sample now; may block for milliseconds."""
        disk = psutil.disk_usage(self._path)
        gpus, message, failed = self._gpus.read()
        self.latest = Resources(
            cpu=psutil.cpu_percent(interval=None) / 100,
            memory=read_memory(),
            disk=Disk(disk.free, disk.total),
            gpus=gpus,
            gpu_message=message,
            gpu_failed=failed,
        )
        return self.latest

    def start(self) -> None:
        """Starts sampling in the background, the first time at once."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="resource-sampler")

    async def stop(self) -> None:
        """Ends the background sampling; `latest` stays."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.sample)
            except Exception:
                _log.exception("resource_sample_failed")
            await asyncio.sleep(self._interval)
