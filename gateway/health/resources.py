"""CPU, memory, disk and GPUs of this machine, sampled in the background so that no request ever waits for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import structlog

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
class Gpu:
    """One device; memory in bytes, `utilisation` 0 to 1."""

    index: int
    name: str
    memory_used: int
    memory_total: int
    utilisation: float


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


class Gpus:
    """NVIDIA devices through NVML, which is loaded with the first reading and may well be missing."""

    def __init__(self, load: Callable[[], Any] | None = None) -> None:
        self._load = load or _load_nvml
        self._nvml: Any = None
        self._absent = ""

    def read(self) -> tuple[tuple[Gpu, ...], str, bool]:
        """(devices, message, whether devices that should be there can't be read)."""
        if self._absent:
            return (), self._absent, False
        try:
            if self._nvml is None:
                self._nvml = self._load()
        except Exception as error:  # no package, no driver, no device: each with an exception of its own
            self._absent = f"not present ({_reason(error)})"
            return (), self._absent, False
        try:
            devices = tuple(self._device(index) for index in range(self._nvml.nvmlDeviceGetCount()))
        except Exception as error:
            return (), f"cannot be read ({_reason(error)})", True
        return devices, "" if devices else "not present (no devices)", False

    def _device(self, index: int) -> Gpu:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name = nvml.nvmlDeviceGetName(handle)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        try:
            utilisation = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        except nvml.NVMLError:  # not told for slices of a device (MIG)
            utilisation = 0.0
        return Gpu(index, name if isinstance(name, str) else name.decode(), memory.used, memory.total, utilisation)


def _load_nvml() -> Any:
    import pynvml

    pynvml.nvmlInit()
    return pynvml


def _reason(error: Exception) -> str:
    return "nvidia-ml-py is not installed" if isinstance(error, ImportError) else str(error) or type(error).__name__


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
