"""The devices of one worker: read now and then, told in its `/health`, `/status` and `/metrics`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from backends.held_up import patient_timeout
from backends.workers.gpu import Gpu, Gpus, open_nvml, open_torch
from backends.workers.labels import escaped

#: Every metric: its type and meaning. Labels: the device's index and name.
FAMILIES = {
    "seawall_gpu_devices": ("gauge", "Devices that the worker sees."),
    "seawall_gpu_memory_used_bytes": ("gauge", "Memory of the device in use, by whomever."),
    "seawall_gpu_memory_total_bytes": ("gauge", "Memory of the device."),
    "seawall_gpu_utilisation_ratio": ("gauge", "Share of the time in which the device was busy."),
    "seawall_gpu_temperature_celsius": ("gauge", "Temperature of the device."),
    "seawall_gpu_ecc_errors": ("gauge", "Memory errors that could not be corrected, since the driver was loaded."),
    "seawall_gpu_xid": ("gauge", "The last Xid error of the device's own; 0: none."),
    "seawall_gpu_healthy": ("gauge", "0 when the device failed or is out of memory."),
}
#: Seconds for which what was read is told again.
_KEPT = 2.0
#: Seconds that reading may take: a driver that hangs must not hang the answers.
_TIMEOUT = 1.5

Selects = Callable[[Gpu], bool]


def visible(variable: str | None) -> Selects:
    """Which devices a process sees with this value of `CUDA_VISIBLE_DEVICES`: numbers in PCI order, or UUIDs."""
    if variable is None:
        return lambda _gpu: True
    names = [name.strip() for name in variable.split(",") if name.strip()]
    return lambda gpu: any(
        name == str(gpu.index) or (name.startswith("GPU-") and (gpu.uuid or "").startswith(name)) for name in names
    )


def of_torch(device: Any) -> GpuWatch:
    """The watch of a worker whose model is on this torch device.

    What the process's allocator merely keeps for later counts as free: it is given back when it is needed.
    """
    if device.type != "cuda":
        return GpuWatch(absent="not used: the model is on the CPU")
    import torch

    number = torch.cuda.current_device() if device.index is None else device.index
    uuid = f"GPU-{torch.cuda.get_device_properties(number).uuid}"

    def kept() -> int:
        return torch.cuda.memory_reserved(number) - torch.cuda.memory_allocated(number)

    return GpuWatch(
        Gpus(open_nvml, open_torch),
        lambda gpu: gpu.index == number if gpu.uuid is None else gpu.uuid == uuid,
        kept=kept,
    )


@dataclass(frozen=True, slots=True)
class GpuReport:
    """The worker's devices. `message` says why there are none or, with `failed`, why they can't be read."""

    devices: tuple[Gpu, ...] = ()
    message: str = ""
    failed: bool = False

    @property
    def fault(self) -> str | None:
        """Why no work can be done on them, or None."""
        return next((f"GPU {gpu.index}: {gpu.fault}" for gpu in self.devices if gpu.fault), None)

    @property
    def trouble(self) -> str | None:
        """Why they are unhealthy, or None."""
        told = [f"GPU {gpu.index}: {gpu.trouble}" for gpu in self.devices if gpu.trouble]
        return "; ".join(told) or (f"GPUs {self.message}" if self.failed else None)

    def as_json(self) -> dict[str, Any]:
        """For health documents."""
        return {"gpus": [gpu.as_json() for gpu in self.devices], "gpu_message": self.trouble or self.message}

    def exposition(self) -> str:
        """All metrics in Prometheus' text format; how many devices there are, even if none."""
        lines = []
        for name, (kind, meaning) in FAMILIES.items():
            told = [(_labels(gpu), _values(gpu).get(name)) for gpu in self.devices]
            if name == "seawall_gpu_devices":
                told = [("", len(self.devices))]
            if samples := [f"{name}{labels} {float(value)}" for labels, value in told if value is not None]:
                lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}", *samples]
        return "\n".join(lines) + "\n"


def _values(gpu: Gpu) -> Mapping[str, float | None]:
    return {
        "seawall_gpu_memory_used_bytes": gpu.memory_used,
        "seawall_gpu_memory_total_bytes": gpu.memory_total,
        "seawall_gpu_utilisation_ratio": gpu.utilisation,
        "seawall_gpu_temperature_celsius": gpu.temperature,
        "seawall_gpu_ecc_errors": gpu.ecc_errors,
        "seawall_gpu_xid": gpu.xid or 0,
        "seawall_gpu_healthy": gpu.trouble is None,
    }


def _labels(gpu: Gpu) -> str:
    return f'{{gpu="{gpu.index}",name="{escaped(gpu.name)}"}}'


class GpuWatch:
    """Reads the devices that `selects` names, at most once in two seconds, in a thread.

    `absent`: the worker uses none, and why. `kept`: bytes of their memory in use that count as free. `clock` is
    monotonic.
    """

    def __init__(
        self,
        gpus: Gpus | None = None,
        selects: Selects = lambda _gpu: True,
        *,
        absent: str | None = None,
        kept: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gpus = gpus or Gpus()
        self._selects = selects
        self._absent = absent
        self._kept = kept
        self._clock = clock
        self._report = GpuReport()
        self._read_at: float | None = None
        self._reading: asyncio.Task[None] | None = None

    async def report(self) -> GpuReport:
        """What is known now; of a driver that does not answer in time, that it doesn't."""
        if self._absent is not None:
            return GpuReport(message=self._absent)
        if self._read_at is None or self._clock() - self._read_at >= _KEPT:
            if self._reading is None:
                self._reading = asyncio.create_task(self._read(), name="gpu-watch")
            try:
                async with patient_timeout(_TIMEOUT):
                    await asyncio.shield(self._reading)
            except TimeoutError:
                return GpuReport(self._report.devices, f"do not answer within {_TIMEOUT:g} s", failed=True)
        return self._report

    async def _read(self) -> None:
        try:
            devices, message, failed = await asyncio.to_thread(self._gpus.read)
            chosen, kept = [gpu for gpu in devices if self._selects(gpu)], self._kept()
            mine = tuple(replace(gpu, memory_used=max(0, gpu.memory_used - kept)) for gpu in chosen)
            self._report = GpuReport(mine, message or ("" if mine else "none that it may use"), failed)
            self._read_at = self._clock()
        finally:
            self._reading = None
